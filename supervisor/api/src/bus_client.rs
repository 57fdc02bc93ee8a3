//! bus_client: the bus for units written in Rust.
