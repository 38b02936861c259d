//! Which origins may read answers in a browser, and the header lines that tell them.
//!
//! Owns: the blocks, rendered once. Must hold: an origin is compared byte for byte and never echoed unless it is
//! listed, so that nothing a client sends reaches a header.

use crate::config::Cors;
use crate::wire::http_reply::cors_block;

/// The header lines for one answer, as a place in the [`CorsLayer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CorsChoice(usize);

/// The configured origins.
#[derive(Debug)]
pub struct CorsLayer {
    any: bool,
    /// Origin and block. The first has no lines: for origins that are not allowed.
    blocks: Vec<(String, Vec<u8>)>,
}

impl CorsChoice {
    /// No lines.
    pub const NONE: Self = Self(0);
}

impl CorsLayer {
    /// For this setting.
    #[must_use]
    pub fn new(cors: &Cors) -> Self {
        let mut blocks = vec![(String::new(), Vec::new())];
        match cors {
            Cors::Any => blocks.push(("*".to_owned(), cors_block("*"))),
            Cors::Only(origins) => {
                blocks.extend(origins.iter().map(|origin| (origin.clone(), cors_block(origin))));
            }
        }
        Self { any: *cors == Cors::Any, blocks }
    }

    /// What a request with this `Origin` is told.
    #[inline]
    #[must_use]
    pub fn choose(&self, origin: Option<&[u8]>) -> CorsChoice {
        if self.any {
            return CorsChoice(1);
        }
        let Some(origin) = origin else { return CorsChoice::NONE };
        let listed = self.blocks[1..].iter().position(|(known, _)| known.as_bytes() == origin);
        listed.map_or(CorsChoice::NONE, |place| CorsChoice(place + 1))
    }

    /// Whole header lines, or nothing.
    #[inline]
    #[must_use]
    pub fn lines(&self, choice: CorsChoice) -> &[u8] {
        &self.blocks[choice.0].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(layer: &CorsLayer, origin: Option<&str>) -> String {
        String::from_utf8(layer.lines(layer.choose(origin.map(str::as_bytes))).to_vec()).unwrap()
    }

    #[test]
    fn everyone_is_told_a_star() {
        let layer = CorsLayer::new(&Cors::Any);
        assert!(told(&layer, None).ends_with("Access-Control-Allow-Origin: *\r\n"));
        assert_eq!(told(&layer, None), told(&layer, Some("http://x")));
    }

    #[test]
    fn only_listed_origins_are_echoed() {
        let layer = CorsLayer::new(&Cors::Only(vec!["http://a:1".to_owned(), "http://b:1".to_owned()]));
        assert!(told(&layer, Some("http://b:1")).ends_with("Access-Control-Allow-Origin: http://b:1\r\n"));
        for refused in [None, Some(""), Some("*"), Some("http://b:1/"), Some("HTTP://b:1"), Some("http://b")] {
            assert_eq!(told(&layer, refused), "", "{refused:?}");
        }
    }
}
