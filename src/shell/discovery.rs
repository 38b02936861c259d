//! Discovery on the wire: the questions of `api::discovery`, asked of a ringd or an etcd.
//!
//! Owns: connections to the service, directly or through an HTTP proxy, and the waits between them. Must hold: every
//! question but a watch has a limit of time; a watch ends with its connection, which the kernel probes.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use glommio::timer::Timer;

use super::{dial, http_client};
use crate::api::discovery::{Discovery, DiscoveryError, Next, Outcome, Question};
use crate::config::joining::{ServiceUrl, parse_cluster};
use crate::config::url::Url;
use crate::wire::http_answer::AnswerHead;

/// A service that has not answered by then is asked again later, as in etcd.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Runs a discovery to its end: name to peer URLs of the members.
///
/// # Errors
/// [`DiscoveryError`]. A service that does not answer is asked again for ever.
pub async fn run(
    service: &ServiceUrl,
    proxy: Option<&ServiceUrl>,
    mut discovery: Discovery,
) -> Result<BTreeMap<String, Vec<Url>>, DiscoveryError> {
    if let Some(proxy) = proxy {
        tracing::info!("using proxy {:?}", proxy.endpoint.to_string());
    }
    let mut question = discovery.begin();
    loop {
        let answer = match question.waits {
            true => ask(service, proxy, &question).await,
            false => dial::limited(ANSWER_LIMIT, ask(service, proxy, &question)).await,
        };
        let outcome = match &answer {
            Ok((head, body)) => Outcome::Answer { status: head.status, etcd_index: head.etcd_index, body },
            Err(error) => {
                tracing::error!("discovery: {error}");
                Outcome::Nothing
            }
        };
        let next = discovery.step(outcome);
        for note in discovery.take_notes() {
            tracing::info!("discovery: {note}");
        }
        question = match next? {
            Next::Ask(question) => question,
            Next::AskAfter(wait, what, question) => {
                tracing::info!(
                    "discovery: {what}: error connecting to {}, retrying in {}s",
                    service.endpoint,
                    wait.as_secs()
                );
                Timer::new(wait).await;
                question
            }
            Next::Found(members) => return cluster(&members),
        };
    }
}

/// What the members registered, as a cluster.
fn cluster(members: &[String]) -> Result<BTreeMap<String, Vec<Url>>, DiscoveryError> {
    let cluster = parse_cluster(&members.join(",")).map_err(|_| DiscoveryError::InvalidUrl)?;
    if cluster.len() == members.len() { Ok(cluster) } else { Err(DiscoveryError::DuplicateName) }
}

async fn ask(
    service: &ServiceUrl,
    proxy: Option<&ServiceUrl>,
    question: &Question,
) -> io::Result<(AnswerHead, Vec<u8>)> {
    let host = service.endpoint.host_port();
    // A proxy is told the whole URL (RFC 9112, section 3.2.2).
    let before = if proxy.is_some() { format!("http://{host}") } else { String::new() };
    let mut request = format!("{} {before}{} HTTP/1.1\r\nHost: {host}\r\n", question.method, question.target);
    match &question.form {
        None => request.push_str("Connection: close\r\n\r\n"),
        Some(form) => request.push_str(&format!(
            "Connection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        )),
    }
    let mut stream = dial::connect(&proxy.unwrap_or(service).endpoint).await?;
    http_client::exchange(&mut stream, request.as_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registrations_make_a_cluster_or_say_why_not() {
        let of = |texts: &[&str]| cluster(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        let found = of(&["a=http://h:1,a=http://h:2", "b=http://h:3"]).unwrap();
        assert_eq!(
            found.iter().map(|(name, urls)| (name.as_str(), urls.len())).collect::<Vec<_>>(),
            [("a", 2), ("b", 1)]
        );
        assert_eq!(of(&["a=http://h:1", "a=http://h:3"]), Err(DiscoveryError::DuplicateName));
        assert_eq!(of(&["a=http://h:1", ""]), Err(DiscoveryError::DuplicateName));
        for bad in ["nourl", "a=foo", "a=http://h"] {
            assert_eq!(of(&[bad]), Err(DiscoveryError::InvalidUrl), "{bad}");
        }
    }
}
