//! What a proxy knows of its cluster: which members to ask next, and what is kept on disk of them.
//!
//! Owns: the endpoints and who of them is set aside, etcd's `proxy/cluster` file, the `/v2/config/local/proxy` answer.
//! Touches: the member list. No socket, no clock, no randomness: they come in.
//!
//! Must always hold:
//! - An endpoint that failed is not offered again before its wait is over, also when the list is read again meanwhile.
//! - All requests go to the first endpoint that is not set aside, so that one client's reads do not jump between members.

use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;

use super::json;
use crate::core::membership::Member;

/// From this refresh interval on, a proxy that has no endpoint looks sooner, as in etcd.
const LAZY_REFRESH: Duration = Duration::from_secs(30);
/// It looks after this long then.
const EAGER_REFRESH: Duration = Duration::from_secs(1);
/// A cluster file larger than this is none of ours.
pub const CLUSTER_FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug)]
struct Endpoint {
    url: Rc<str>,
    /// Until when it is set aside.
    aside: Option<Duration>,
}

/// The endpoints of a cluster. Times are since the start of the process.
#[derive(Debug)]
pub struct Director {
    endpoints: Vec<Endpoint>,
    failure_wait: Duration,
}

impl Director {
    /// None yet.
    #[must_use]
    pub fn new(failure_wait: Duration) -> Self {
        Self { endpoints: Vec::new(), failure_wait }
    }

    /// Takes a new list, in an order that `random` decides: proxies shall not all ask one member.
    pub fn replace(&mut self, urls: &[String], mut random: u64) {
        let old = std::mem::take(&mut self.endpoints);
        let mut seen: Vec<&String> = Vec::with_capacity(urls.len());
        for url in urls {
            if seen.contains(&url) {
                continue;
            }
            seen.push(url);
            let aside = old.iter().find(|endpoint| *endpoint.url == **url).and_then(|endpoint| endpoint.aside);
            let place = usize::try_from(random % seen.len() as u64).expect("a place in a list");
            random = random.rotate_right(7) ^ seen.len() as u64;
            self.endpoints.push(Endpoint { url: Rc::from(url.as_str()), aside });
            let last = self.endpoints.len() - 1;
            self.endpoints.swap(place, last);
        }
    }

    /// Those whose wait is over: they are offered again from now on.
    pub fn restore(&mut self, now: Duration) -> Vec<Rc<str>> {
        let over = self.endpoints.iter_mut().filter(|endpoint| endpoint.aside.is_some_and(|until| until <= now));
        let restored = over.map(|endpoint| {
            endpoint.aside = None;
            Rc::clone(&endpoint.url)
        });
        restored.collect()
    }

    /// Whom to ask, in this order.
    #[must_use]
    pub fn available(&self) -> Vec<Rc<str>> {
        let free = self.endpoints.iter().filter(|endpoint| endpoint.aside.is_none());
        free.map(|endpoint| Rc::clone(&endpoint.url)).collect()
    }

    /// An endpoint could not be asked. True when it is set aside by this.
    pub fn failed(&mut self, url: &str, now: Duration) -> bool {
        let found = self.endpoints.iter_mut().find(|endpoint| &*endpoint.url == url && endpoint.aside.is_none());
        let Some(endpoint) = found else { return false };
        endpoint.aside = Some(now + self.failure_wait);
        true
    }

    /// When to read the list again.
    #[must_use]
    pub fn refresh_after(&self, interval: Duration) -> Duration {
        let idle = self.endpoints.iter().all(|endpoint| endpoint.aside.is_some());
        if idle && interval >= LAZY_REFRESH { EAGER_REFRESH } else { interval }
    }

    /// The body of `/v2/config/local/proxy`.
    pub fn render(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"endpoints\":");
        push_list(out, &self.available());
        out.extend_from_slice(b"}\n");
    }
}

fn push_list<T: AsRef<str>>(out: &mut Vec<u8>, texts: &[T]) {
    out.push(b'[');
    for (place, text) in texts.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        json::push_string(out, text.as_ref().as_bytes());
    }
    out.push(b']');
}

fn sorted<'a>(urls: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut urls: Vec<String> = urls.cloned().collect();
    urls.sort();
    urls
}

/// Where clients are served.
#[must_use]
pub fn client_urls(members: &[Member]) -> Vec<String> {
    sorted(members.iter().flat_map(|member| &member.client_urls))
}

/// Where the members ask each other, and are asked who they are.
#[must_use]
pub fn peer_urls(members: &[Member]) -> Vec<String> {
    sorted(members.iter().flat_map(|member| &member.peer_urls))
}

/// What `<data-dir>/proxy/cluster` holds: etcd's file.
#[must_use]
pub fn render_cluster_file(peer_urls: &[String]) -> Vec<u8> {
    let mut out = b"{\"PeerURLs\":".to_vec();
    push_list(&mut out, peer_urls);
    out.push(b'}');
    out
}

/// Reads such a file.
///
/// # Errors
/// What is wrong with it.
pub fn parse_cluster_file(bytes: &[u8]) -> Result<Vec<String>, String> {
    let file: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let urls = match file.get("PeerURLs") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(urls) => urls.as_array().ok_or("PeerURLs is no list")?,
    };
    let texts = urls.iter().map(|url| url.as_str().map(str::to_owned).ok_or("a URL is no text"));
    Ok(texts.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn urls(count: usize) -> Vec<String> {
        (0..count).map(|place| format!("http://h:{place}")).collect()
    }

    fn names(director: &Director) -> Vec<String> {
        director.available().iter().map(ToString::to_string).collect()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_failed_endpoint_is_left_out_for_its_wait_and_no_longer() {
        let mut director = Director::new(5 * SECOND);
        director.replace(&urls(2), 0);
        let first = names(&director)[0].clone();
        assert!(director.failed(&first, 10 * SECOND));
        assert!(!director.failed(&first, 11 * SECOND), "it is aside already, and not for longer");
        assert_eq!(names(&director).len(), 1);
        director.replace(&urls(3), 99);
        assert!(!names(&director).contains(&first), "a new list does not bring it back");
        assert!(director.restore(14 * SECOND).is_empty());
        assert_eq!(director.restore(15 * SECOND).len(), 1);
        assert_eq!(names(&director).len(), 3);
        assert!(!director.failed("http://gone", SECOND));
    }

    #[test]
    fn who_has_nobody_to_ask_looks_again_soon() {
        let mut director = Director::new(SECOND);
        let (lazy, quick) = (30 * SECOND, 2 * SECOND);
        assert_eq!((director.refresh_after(lazy), director.refresh_after(quick)), (SECOND, quick));
        director.replace(&urls(1), 1);
        assert_eq!(director.refresh_after(lazy), lazy);
        director.failed("http://h:0", SECOND);
        assert_eq!(director.refresh_after(lazy), SECOND);
    }

    #[test]
    fn the_file_and_the_answer_are_etcds() {
        let mut director = Director::new(SECOND);
        let shown = |director: &Director| {
            let mut out = Vec::new();
            director.render(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(&director), "{\"endpoints\":[]}\n");
        director.replace(&urls(1), 5);
        assert_eq!(shown(&director), "{\"endpoints\":[\"http://h:0\"]}\n");
        let file = render_cluster_file(&["http://127.0.0.1:22380".to_owned()]);
        assert_eq!(file, br#"{"PeerURLs":["http://127.0.0.1:22380"]}"#);
        assert_eq!(parse_cluster_file(&file), Ok(vec!["http://127.0.0.1:22380".to_owned()]));
        assert_eq!(parse_cluster_file(b"{\"PeerURLs\":null}"), Ok(Vec::new()));
        for bad in ["", "{\"PeerURLs\":1}", "{\"PeerURLs\":[1]}", "{"] {
            assert!(parse_cluster_file(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nobody_is_lost_or_doubled_by_the_order(count in 0_usize..9, random: u64, again: u64) {
            let mut director = Director::new(SECOND);
            let doubled = [urls(count), urls(count)].concat();
            director.replace(&doubled, random);
            director.replace(&doubled, again);
            let mut found = names(&director);
            found.sort();
            prop_assert_eq!(found, urls(count));
        }

        #[test]
        fn any_file_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse_cluster_file(&bytes);
        }
    }
}
