//! What the text shows, and that the table keeps its rules.

use super::*;

fn text(metrics: &Metrics, scrape: &Scrape) -> String {
    let mut out = Vec::new();
    render(&mut out, metrics, scrape);
    String::from_utf8(out).expect("the text is ASCII")
}

#[test]
fn names_ascend_and_belong_to_someone() {
    let names = table::names();
    assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    for name in names {
        assert!(["etcd_", "process_", "ringd_"].iter().any(|prefix| name.starts_with(prefix)), "{name}");
    }
}

#[test]
fn types_and_names_are_etcds() {
    let text = text(&Metrics::default(), &Scrape { member: "1f".into(), has_leader: true, ..Scrape::default() });
    for line in [
        "# TYPE etcd_server_has_leader gauge\netcd_server_has_leader 1\n",
        "# TYPE etcd_server_proposals_committed_total gauge\netcd_server_proposals_committed_total 0\n",
        "# TYPE etcd_server_proposals_failed_total counter\netcd_server_proposals_failed_total 0\n",
        "# TYPE etcd_server_health_success counter\netcd_server_health_success 0\n",
        "# TYPE etcd_disk_wal_write_bytes_total gauge\netcd_disk_wal_write_bytes_total 0\n",
        "etcd_server_id{server_id=\"1f\"} 1\n",
        "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 0\n",
        "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"} 0\n",
        "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"} 0\n",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains("etcd_cluster_version"), "nothing is agreed yet");
}

#[test]
fn counts_reach_the_text() {
    let metrics = Metrics::default();
    metrics.received(Kind::Get);
    metrics.get_served();
    metrics.step(Step::Request, Duration::from_micros(12));
    metrics.step(Step::Turn, Duration::from_millis(2));
    metrics.failed(Kind::QuorumGet, 404);
    metrics.failed(Kind::QuorumGet, 404);
    let text = text(&metrics, &Scrape::default());
    for line in [
        "etcd_http_received_total{method=\"GET\"} 1\n",
        "etcd_http_failed_total{code=\"404\",method=\"QGET\"} 2\n",
        "etcd_http_successful_duration_seconds_bucket{method=\"GET\",le=\"0.0005\"} 1\n",
        "etcd_http_successful_duration_seconds_count{method=\"GET\"} 1\n",
        "ringd_loop_stall_seconds_bucket{le=\"0.00001\"} 0\n",
        "ringd_loop_stall_seconds_bucket{le=\"0.00002\"} 1\n",
        "ringd_loop_stall_seconds_count 2\n",
        "ringd_loop_stall_longest_seconds{step=\"turn\"} 0.002\n",
        "ringd_loop_stall_longest_seconds{step=\"request\"} 0.000012\n",
        "ringd_loop_stall_recent_seconds 0.002\n",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains("method=\"PUT\""), "what never happened has no label");
}

#[test]
fn a_stall_is_recent_for_a_while() {
    let metrics = Metrics::default();
    metrics.step(Step::Settle, Duration::from_nanos(5));
    metrics.tick(Duration::from_secs(15));
    assert_eq!(metrics.recent_stall(), 5);
    metrics.tick(Duration::from_secs(29));
    assert_eq!(metrics.recent_stall(), 5);
    metrics.tick(Duration::from_secs(30));
    assert_eq!(metrics.recent_stall(), 0);
    assert_eq!(metrics.longest(Step::Settle), 5);
}

#[test]
fn a_histogram_holds_its_bounds() {
    static BOUNDS: [u64; 3] = doubling(4);
    let histogram = Histogram::of_units(&BOUNDS);
    for value in [0, 4, 5, 16, 17, u64::MAX] {
        histogram.observe(value);
    }
    histogram.observe_many(8, 3);
    let proto = histogram.proto();
    let counts: Vec<_> = proto.get_bucket().iter().map(|b| (b.upper_bound(), b.cumulative_count())).collect();
    assert_eq!(counts, [(4.0, 2), (8.0, 6), (16.0, 7)]);
    assert_eq!(proto.get_sample_count(), 9);
}

/// What etcd's dashboards and alerts name.
const EXPECTED: &str = include_str!("../../tests/service/etcd_metrics.txt");

/// Samples of every kind that there can be.
fn eventful() -> String {
    let metrics = Metrics::default();
    metrics.peers.borrow_mut().push(Rc::new(PeerMetrics::new("2b".to_owned())));
    metrics.received(Kind::Get);
    metrics.served(Kind::Put, Duration::from_millis(1));
    metrics.failed(Kind::Put, 412);
    text(&metrics, &Scrape { member: "1f".into(), cluster_version: "3.4".into(), ..Scrape::default() })
}

/// Names in an expression that look like metrics of etcd's, without a histogram's suffix.
fn series(expression: &str) -> Vec<&str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let named = words.filter(|word| ["etcd_", "grpc_server_", "process_"].iter().any(|start| word.starts_with(start)));
    named.map(|word| word.strip_suffix("_bucket").unwrap_or(word)).collect()
}

#[test]
fn stock_alerts_find_every_series_that_has_a_meaning_here() {
    let text = eventful();
    let (mut metrics, mut none, mut alerts) = (Vec::new(), Vec::new(), 0);
    for line in EXPECTED.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (what, rest) = line.split_once(' ').expect("a keyword");
        let (first, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        match what {
            "metric" => {
                let mut words = rest.split(' ');
                let name = words.next().expect("a name");
                assert!(text.contains(&format!("# TYPE {name} {first}\n")), "{name} is no {first}\n{text}");
                let sample = if first == "histogram" { format!("{name}_bucket{{") } else { name.to_owned() };
                let mut samples = text.lines().filter(|line| line.starts_with(&sample));
                let labels: Vec<_> = words.map(|label| format!("{label}=\"")).collect();
                assert!(
                    samples.any(|line| labels.iter().all(|label| line.contains(label))),
                    "{name} has no sample with {labels:?}"
                );
                metrics.push(name);
            }
            "none" => {
                assert!(!rest.is_empty(), "{first}: why not?");
                assert!(!text.contains(&format!("# TYPE {first} ")), "{first} is exported");
                none.push(first);
            }
            "alert" => {
                for name in series(rest) {
                    assert!(metrics.contains(&name) || none.contains(&name), "{first} needs {name}");
                }
                alerts += 1;
            }
            other => panic!("what is {other}?"),
        }
    }
    assert!(metrics.len() > 40 && !none.is_empty() && alerts > 10, "{} {alerts}", metrics.len());
}

#[test]
fn extensive_metrics_have_fine_buckets() {
    let metrics = Metrics::default();
    metrics.extend();
    metrics.served(Kind::Put, Duration::from_micros(15));
    metrics.get_served();
    metrics.step(Step::Request, Duration::from_micros(5));
    let extensive = text(&metrics, &Scrape::default());
    for line in [
        "ringd_request_duration_seconds_bucket{method=\"PUT\",le=\"0.00001\"} 0\n",
        "ringd_request_duration_seconds_bucket{method=\"PUT\",le=\"0.00002\"} 1\n",
        "ringd_request_duration_seconds_count{method=\"GET\"} 1\n",
        "etcd_http_successful_duration_seconds_count{method=\"PUT\"} 1\n",
    ] {
        assert!(extensive.contains(line), "{line}\n{extensive}");
    }
    assert!(!eventful().contains("ringd_request_duration_seconds"));
}
