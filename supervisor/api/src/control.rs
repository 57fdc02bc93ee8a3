//! control: the operations of the control API, each defined once.
