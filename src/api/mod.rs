//! Request to command or query, outcome to response; pure.

pub mod error;
pub mod json;
pub mod keys;
pub mod method;
pub mod params;
pub mod route;
mod scan;
