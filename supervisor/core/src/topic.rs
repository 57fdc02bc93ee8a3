//! topic: dotted names, filters and grants.
//!
//! Job: parse topics and filters, match them with a trie, decide by grants. May touch: `ids`, `unit`.
//! Keeps: `*` is exactly one segment, `>` one or more at the end.
