//! unit_files
