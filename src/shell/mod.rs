//! The only room that waits; the only one that names glommio.
