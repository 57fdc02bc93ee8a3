//! loom-api: what Loom's processes say to one another.
//!
//! Job: the control operations with client, the agent wire (frames, header, operations), the bus client for Rust units,
//! and what loomd and loomctl must agree on: directories and the search path of unit files.
//! May touch: loom-core. Keeps: each operation and each message is defined once; `schemas/` is printed from here.

pub mod control;
pub mod dirs;
pub mod unit_files;
pub mod view;
pub mod wire;
pub mod zone;

#[cfg(feature = "bus-client")]
pub mod bus_client;
