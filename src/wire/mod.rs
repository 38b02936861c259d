//! Bytes to requests and back; pure codecs.
