//! One look at every member: what `/metrics` and `/debug/vars` tell at a moment.
//!
//! Owns: which members are asked, and the reading of their answers. Touches: the cluster. Always: members are asked side
//! by side, and one that does not answer costs its own timeout, not the others'; what a server sends is foreign: a number
//! that is not there, or is none, is unknown.

use std::collections::BTreeMap;
use std::thread;
use std::time::Instant;

use ringd_client::{Client, ClientError, Endpoint, Member};

/// The longest name of a key prefix that is shown.
const PREFIX_CHARS_MAX: usize = 64;

/// The cluster at a moment.
#[derive(Clone, Debug, Default)]
pub struct Look {
    pub members: Vec<Seen>,
}

/// A member at a moment.
#[derive(Clone, Debug)]
pub struct Seen {
    pub member: Member,
    /// Why it is not known how it does, if it is not.
    pub numbers: Result<Numbers, String>,
}

/// What a member tells of itself.
#[derive(Clone, Debug)]
pub struct Numbers {
    pub at: Instant,
    metrics: BTreeMap<String, f64>,
    /// First names of keys with how often they were seen, and of how many requests.
    pub hot: Vec<(String, f64)>,
    pub sampled: f64,
}

impl Numbers {
    /// From the texts of `/metrics` and `/debug/vars`.
    pub fn parse(at: Instant, metrics: &str, vars: &[u8]) -> Numbers {
        let metrics = metrics.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.trim_end().rsplit_once(' ')?;
            Some((name.trim_end().to_owned(), value.parse::<f64>().ok().filter(|value| value.is_finite())?))
        });
        let vars: serde_json::Value = serde_json::from_slice(vars).unwrap_or_default();
        let told = &vars["ringd.hot_prefixes"];
        let prefixes = told["prefixes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let hot = prefixes.iter().filter_map(|one| {
            // Names are anybody's: a terminal must not obey them.
            let name = one["prefix"].as_str()?.chars().take(PREFIX_CHARS_MAX);
            let shown = name.map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
            Some((shown, one["count"].as_f64()?))
        });
        Numbers { at, metrics: metrics.collect(), hot: hot.collect(), sampled: told["sampled"].as_f64().unwrap_or(0.0) }
    }

    /// A metric by its name, labels included.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.metrics.get(name).copied()
    }

    /// A metric over all its labels.
    pub fn sum(&self, name: &str) -> Option<f64> {
        let of_it = self.metrics.range(format!("{name}{{")..).take_while(|(key, _)| is_labelled(key, name));
        of_it.map(|(_, value)| *value).reduce(|sum, value| sum + value)
    }

    /// The buckets of a histogram without other labels: upper bound and count up to it, ascending.
    pub fn buckets(&self, name: &str) -> Vec<(f64, f64)> {
        let prefix = format!("{name}_bucket{{le=\"");
        let mut buckets: Vec<(f64, f64)> = self
            .metrics
            .range(prefix.clone()..)
            .map_while(|(key, count)| Some((key.strip_prefix(&prefix)?, *count)))
            .filter_map(|(rest, count)| {
                let bound = rest.strip_suffix("\"}")?;
                let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
                Some((bound, count))
            })
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        buckets
    }
}

fn is_labelled(key: &str, name: &str) -> bool {
    key.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'))
}

/// Asks all members again and again.
pub struct Observer {
    client: Client,
    members: Vec<Member>,
}

impl Observer {
    pub fn new(client: Client) -> Observer {
        Observer { client, members: Vec::new() }
    }

    /// Asks the cluster for its members, and each of them how it does. Once it was told who they are, it goes on with
    /// that when nobody tells it any more.
    ///
    /// # Errors
    /// Nobody ever said who the members are.
    pub fn look(&mut self) -> Result<Look, ClientError> {
        match self.client.members() {
            Ok(mut members) => {
                members.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
                self.members = members;
            }
            Err(error) if self.members.is_empty() => return Err(error),
            Err(_) => {}
        }
        let client = &self.client;
        let seen = thread::scope(|scope| {
            let asked: Vec<_> = self
                .members
                .iter()
                .map(|member| {
                    let client = client.sibling();
                    (member, scope.spawn(move || ask(client, member)))
                })
                .collect();
            asked
                .into_iter()
                .map(|(member, asked)| {
                    let numbers = asked.join().unwrap_or_else(|_| Err("asking it failed".to_owned()));
                    Seen { member: member.clone(), numbers }
                })
                .collect()
        });
        Ok(Look { members: seen })
    }
}

/// Asks a member at the first of its URLs that answers.
fn ask(mut client: Client, member: &Member) -> Result<Numbers, String> {
    let mut why = "it has published no client URL".to_owned();
    for url in &member.client_urls {
        let answered = url.parse::<Endpoint>().map_err(|error| error.to_string()).and_then(|endpoint| {
            let mut fetch = |path| match client.fetch(&endpoint, path) {
                Ok((200, body)) => Ok(body),
                Ok((status, _)) => Err(format!("{path}: status {status}")),
                Err(failure) => Err(failure.to_string()),
            };
            let metrics = fetch("/metrics")?;
            let at = Instant::now();
            // What another server has not is not shown.
            let vars = fetch("/debug/vars").unwrap_or_default();
            Ok(Numbers::parse(at, &String::from_utf8_lossy(&metrics), &vars))
        });
        match answered {
            Ok(numbers) => return Ok(numbers),
            Err(reason) => why = reason,
        }
    }
    Err(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_by_name_label_and_bucket() {
        let text = "# HELP a b c\na 1\nb{m=\"GET\"} 2\nb{m=\"PUT\"} 3.5\nbc{m=\"PUT\"} 100\nnan NaN\nbroken\n\
                    h_bucket{le=\"0.1\"} 1\nh_bucket{le=\"+Inf\"} 4\nh_bucket{le=\"0.02\"} 0\n";
        let vars = br#"{"ringd.hot_prefixes":{"sampled":4,"prefixes":[{"prefix":"/a\u001b","count":3},{"count":1}]}}"#;
        let numbers = Numbers::parse(Instant::now(), text, vars);
        assert_eq!((numbers.get("a"), numbers.get("nan"), numbers.get("none")), (Some(1.0), None, None));
        assert_eq!((numbers.sum("b"), numbers.sum("a")), (Some(5.5), None));
        assert_eq!(numbers.buckets("h"), [(0.02, 0.0), (0.1, 1.0), (f64::INFINITY, 4.0)]);
        assert_eq!((numbers.hot, numbers.sampled), (vec![("/a\u{fffd}".to_owned(), 3.0)], 4.0));
    }

    #[test]
    fn anything_is_survived() {
        for (metrics, vars) in [("", &b""[..]), ("} {\n \n{", b"[]"), ("a{ 1\na} 2", b"{\"ringd.hot_prefixes\":3}")] {
            let numbers = Numbers::parse(Instant::now(), metrics, vars);
            assert!(numbers.hot.is_empty() && numbers.buckets("a").is_empty());
        }
    }
}
