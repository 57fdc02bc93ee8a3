//! wire: the agent wire: frames, header, operations.
