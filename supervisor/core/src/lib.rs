//! loom-core: what Loom decides.
//!
//! Job: unit files, dependency graph, lifecycle, restart, grants and sandbox plans, as plain functions over plain data.
//! May touch: nothing of ours. May not: clocks, files, sockets, processes, tokio; time and news come as arguments.
//! Keeps: the same input gives the same answer, so a thousand simulated hours run in a second.

pub mod fleet;
pub mod glob;
pub mod ids;
pub mod launch_plan;
pub mod lifecycle;
pub mod machine;
pub mod sandbox;
pub mod schedule;
pub mod tools;
pub mod topic;
pub mod unit;
