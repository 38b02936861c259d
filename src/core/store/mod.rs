//! The v2 key space.
