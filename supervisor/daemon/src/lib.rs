//! loomd: the supervisor. Does what `loom_core` decides.
//!
//! Job: one loop owns unit state ([`looper`]); rooms around it do one thing each and never import one another.

pub mod agents;
pub mod bus;
pub mod config;
pub mod control;
pub mod fault;
pub mod logs;
pub mod looper;
pub mod machine;
pub mod process;
pub mod reexec;
pub mod store;
pub mod switchboard;
pub mod tools;
