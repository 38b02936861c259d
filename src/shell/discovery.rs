//! Discovery on the wire: the questions of `api::discovery`, asked of a ringd or an etcd.
//!
//! Owns: connections to the service, directly or through an HTTP proxy, and the waits between them. Must hold: every
//! question but a watch has a limit of time; a watch ends with its connection, which the kernel probes; of a service under
//! `https` the system's authorities judge, and no certificate is shown to it, as in etcd.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use glommio::timer::Timer;

use super::tls::Stream;
use super::tls_files::Side;
use super::tls_handshake::{self, Worker};
use super::{dial, http_client};
use crate::api::discovery::{Discovery, DiscoveryError, Next, Outcome, Question};
use crate::config::joining::{ServiceUrl, parse_cluster};
use crate::config::tls::TlsSettings;
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
    let tls = Side::open(&TlsSettings::default(), Vec::new(), false, Rc::new(Worker::default()))
        .expect("no file is named, so none can be wrong");
    let mut question = discovery.begin();
    loop {
        let answer = match question.waits {
            true => ask(&tls, service, proxy, &question).await,
            false => dial::limited(ANSWER_LIMIT, ask(&tls, service, proxy, &question)).await,
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
    tls: &Side,
    service: &ServiceUrl,
    proxy: Option<&ServiceUrl>,
    question: &Question,
) -> io::Result<(AnswerHead, Vec<u8>)> {
    let host = service.endpoint.host_port();
    // A proxy is told the whole URL (RFC 9112, section 3.2.2).
    let is_told_all = proxy.is_some() && !service.endpoint.is_secure();
    let before = if is_told_all { format!("http://{host}") } else { String::new() };
    let mut request = format!("{} {before}{} HTTP/1.1\r\nHost: {host}\r\n", question.method, question.target);
    match &question.form {
        None => request.push_str("Connection: close\r\n\r\n"),
        Some(form) => request.push_str(&format!(
            "Connection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        )),
    }
    let mut stream = match proxy {
        Some(proxy) if service.endpoint.is_secure() => tunnel(tls, service, proxy).await?,
        proxy => dial::reach(tls, &proxy.unwrap_or(service).endpoint).await?,
    };
    http_client::exchange(&mut stream, request.as_bytes()).await
}

/// A secured connection through a proxy that sees only where it leads (RFC 9110, section 9.3.6).
async fn tunnel(tls: &Side, service: &ServiceUrl, proxy: &ServiceUrl) -> io::Result<Stream> {
    if proxy.endpoint.is_secure() {
        let text = "a proxy that is asked over https cannot lead to a service under https";
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    let mut socket = dial::connect_socket(&proxy.endpoint, dial::CONNECT_LIMIT).await?;
    let host = service.endpoint.host_port();
    dial::send(&mut socket, format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut bytes = Vec::new();
    let answer = dial::answer(&mut socket, &mut bytes).await?;
    // The service says nothing before it is asked.
    if answer.status != 200 || bytes.len() > answer.head_bytes {
        return Err(io::Error::other(format!("the proxy answered with status {}", answer.status)));
    }
    tls_handshake::dial(tls, &service.endpoint, socket).await
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
