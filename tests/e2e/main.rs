//! End to end: what a person sees, with the real binaries.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod bus;
mod chaos;
mod chat;
mod command_line;
mod confinement;
mod demo;
mod descriptors;
mod faults;
mod full_disk;
mod helping;
mod idle;
mod journal;
mod limits;
mod logs;
mod ordinary_user;
mod progress;
mod reexec;
mod schedules;
mod scripted;
mod storms;
mod supervision;
mod supervisor_death;
mod systemd;
mod terminal;
mod tools;
mod unit_files;
