//! tools: which tools there are, and whether an agent may call one with these arguments.
//!
//! Job: names, rules and decisions (deny, then allow, otherwise denied), and the messages between loomd and loom-worker.
//! May touch: `ids`, `unit`, `glob`. May not: open anything. Keeps: a decision names the rule and the line that made it.
