//! glob: `*`, `?`, `**` over paths, for rules.
//!
//! Job: match a path against a pattern in linear space. May touch: nothing. Keeps: `*` never crosses a `/`.
