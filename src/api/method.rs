//! The HTTP methods that make a difference to some endpoint.

/// A request method. Everything without a meaning of its own here is `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// GET.
    Get,
    /// HEAD: as GET, without a body.
    Head,
    /// PUT.
    Put,
    /// POST.
    Post,
    /// DELETE.
    Delete,
    /// OPTIONS: 200 with an empty body on every path, also unknown ones (etcd's CORS layer answers before routing).
    Options,
    /// Any other word.
    Other,
}

impl Method {
    /// The method of a request line, which is case sensitive.
    #[must_use]
    pub fn from_bytes(name: &[u8]) -> Self {
        match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"PUT" => Self::Put,
            b"POST" => Self::Post,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            _ => Self::Other,
        }
    }
}
