//! The HTTP client the tools share.
