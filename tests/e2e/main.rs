//! End to end: what a person sees, with the real binaries.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod bus;
mod chaos;
mod command_line;
mod confinement;
mod descriptors;
mod idle;
mod journal;
mod logs;
mod ordinary_user;
mod supervision;
mod supervisor_death;
mod tools;
mod unit_files;
