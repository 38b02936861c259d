//! What etcd 3.4.23 answered to the same flags and variables, and what ringd adds.

use super::flags::FLAGS;
use super::joining::{Fallback, ProxyMode};
use super::url::Place;
use super::*;

fn parse(args: &[&str], variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::parse(
        args.iter().map(OsString::from),
        variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))),
        |path| Err(format!("open {}: no such file or directory", path.display())),
    )
}

fn good(args: &[&str]) -> Config {
    parse(args, &[]).unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

/// Exit code and the first line of the text.
fn bad(args: &[&str]) -> (u8, String) {
    bad_with(args, &[])
}

fn bad_with(args: &[&str], variables: &[(&str, &str)]) -> (u8, String) {
    let error = parse(args, variables).expect_err("etcd refuses this");
    assert!(error.to_string().ends_with('\n'));
    (error.exit_code(), error.to_string().lines().next().unwrap_or_default().to_owned())
}

fn verifying(text: &str) -> (u8, String) {
    (1, format!("error verifying flags, {text}. See 'ringd --help'."))
}

#[test]
fn the_table_keeps_its_promises() {
    for (at, flag) in FLAGS.iter().enumerate() {
        assert!(FLAGS[..at].iter().all(|other| other.name != flag.name), "{} twice", flag.name);
        assert_eq!(go_flags::check(flag.kind, flag.default), Ok(()), "default of {}", flag.name);
        assert_eq!(flag.name.starts_with("ringd-"), flag.group == flags::Group::Ringd, "{}", flag.name);
        assert!(!flag.help.is_empty());
    }
    assert_eq!(flags::find("listen-client-urls").unwrap().variable().unwrap(), "ETCD_LISTEN_CLIENT_URLS");
    assert_eq!(flags::find("ringd-connections-max").unwrap().variable().unwrap(), "RINGD_CONNECTIONS_MAX");
    assert_eq!(flags::find("version").unwrap().variable(), None);
    go_flags::command().debug_assert();
}

fn tcp(address: &str) -> Place {
    Place::Tcp(address.parse().unwrap())
}

#[test]
fn no_flags_give_etcds_defaults() {
    let config = good(&[]);
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir, PathBuf::from("default.etcd"));
    assert_eq!(config.wal_dir, None);
    assert_eq!(config.listen_client_addresses, [tcp("127.0.0.1:2379")]);
    assert_eq!(config.listen_peer_addresses, [tcp("127.0.0.1:2380")]);
    assert_eq!(url::join(&config.advertise_client_urls), "http://localhost:2379");
    assert_eq!(config.initial_cluster_text(), "default=http://localhost:2380");
    assert_eq!(config.initial_cluster_state, ClusterState::New);
    assert_eq!(config.initial_cluster_token, "etcd-cluster");
    assert_eq!((config.heartbeat_interval.as_millis(), config.election_timeout.as_millis()), (100, 1000));
    assert_eq!((config.max_snapshots, config.max_wals), (Some(5), Some(5)));
    assert_eq!(config.limits, Limits::default());
    let ceilings =
        Ceilings { quota: 2 << 30, writes_pending: 64 << 20, log: 2 << 30, bodies: 256 << 20, answers: 256 << 20 };
    assert_eq!(config.ceilings, ceilings);
    assert_eq!((config.cors.clone(), config.log.level), (Cors::Any, LogLevel::Info));
    assert_eq!(config.check_bootstrap(), Ok(()));
}

#[test]
fn every_form_of_a_flag_is_read() {
    for args in [&["-name", "x"][..], &["--name", "x"], &["-name=x"], &["--name=x"], &["--name=y", "--name", "x"]] {
        let config = good(args);
        assert_eq!((config.name.as_str(), config.data_dir), ("x", PathBuf::from("x.etcd")));
        assert_eq!(config.initial_cluster.keys().collect::<Vec<_>>(), ["x"]);
    }
    assert_eq!(good(&["--name", "-x"]).name, "-x");
    assert_eq!(good(&["--debug"]).log.level, LogLevel::Debug);
    assert_eq!(good(&["--debug=F"]).log.level, LogLevel::Info);
    assert_eq!(good(&["--election-timeout", "0x1F4"]).election_timeout.as_millis(), 500);
    assert_eq!(good(&["--election-timeout=01750"]).election_timeout.as_millis(), 1000);
    assert_eq!(good(&["--max-wals=0"]).max_wals, None);
    assert_eq!(good(&["--data-dir", ""]).data_dir, PathBuf::from("default.etcd"));
    assert_eq!(good(&["--wal-dir", "/w"]).wal_dir, Some(PathBuf::from("/w")));
    let urls = "http://127.0.0.1:3, http://[::1]:4,http://localhost:3";
    let config = good(&["--listen-client-urls", urls, "--advertise-client-urls", "https://h:1"]);
    assert_eq!(config.listen_client_addresses, [tcp("127.0.0.1:3"), tcp("[::1]:4")], "localhost:3 is 127.0.0.1:3");
    assert_eq!(url::join(&config.advertise_client_urls), "https://h:1");
    let config = good(&["--listen-peer-urls", "unix://m0:7"]);
    assert_eq!(config.listen_peer_addresses, [Place::Unix(PathBuf::from("m0:7"))]);
}

#[test]
fn bad_flags_get_gos_message_and_2() {
    for (args, text) in [
        (&["--nope"][..], "flag provided but not defined: -nope"),
        (&["--nope=1"], "flag provided but not defined: -nope"),
        (&["-name"], "flag needs an argument: -name"),
        (&["---name", "x"], "bad flag syntax: ---name"),
        (&["--heartbeat-interval", "abc"], "invalid value \"abc\" for flag -heartbeat-interval: parse error"),
        (&["--heartbeat-interval=-1"], "invalid value \"-1\" for flag -heartbeat-interval: parse error"),
        (
            &["--heartbeat-interval=99999999999999999999"],
            "invalid value \"99999999999999999999\" for flag -heartbeat-interval: value out of range",
        ),
        (&["--enable-v2=maybe"], "invalid boolean value \"maybe\" for -enable-v2: parse error"),
        (&["--initial-cluster-state=foo"], "invalid value \"foo\" for flag -initial-cluster-state: invalid value"),
        (
            &["--listen-client-urls=127.0.0.1:1"],
            "invalid value \"127.0.0.1:1\" for flag -listen-client-urls: parse \"127.0.0.1:1\": first path segment in \
             URL cannot contain colon",
        ),
        (
            &["--listen-client-urls=http://127.0.0.1"],
            "invalid value \"http://127.0.0.1\" for flag -listen-client-urls: URL address does not have the form \
             \"host:port\": http://127.0.0.1",
        ),
        (
            &["--listen-client-urls=ftp://127.0.0.1:1"],
            "invalid value \"ftp://127.0.0.1:1\" for flag -listen-client-urls: URL scheme must be http, https, unix, \
             or unixs: ftp://127.0.0.1:1",
        ),
        (
            &["--advertise-client-urls=http://foo.bar:1/path"],
            "invalid value \"http://foo.bar:1/path\" for flag -advertise-client-urls: URL must not contain a path: \
             http://foo.bar:1/path",
        ),
        (
            &["--listen-client-urls=http://127.0.0.1:abc"],
            "invalid value \"http://127.0.0.1:abc\" for flag -listen-client-urls: parse \"http://127.0.0.1:abc\": \
             invalid port \":abc\" after host",
        ),
        (
            &["--advertise-client-urls=http://127.0.0.1:2379,"],
            "invalid value \"http://127.0.0.1:2379,\" for flag -advertise-client-urls: URL scheme must be http, https, \
             unix, or unixs: ",
        ),
        (&["--cors="], "invalid value \"\" for flag -cors: URL scheme must be http, https, unix, or unixs: "),
        (&["--cors=foo"], "invalid value \"foo\" for flag -cors: URL scheme must be http, https, unix, or unixs: foo"),
    ] {
        assert_eq!(bad(args), (2, text.to_owned()), "{args:?}");
    }
    assert!(parse(&["--nope"], &[]).unwrap_err().to_string().contains("\nUsage:\n"));
}

#[test]
fn contradictions_get_etcds_message_and_1() {
    for (args, text) in [
        (&["--name=x", "extra"][..], "'extra' is not a valid flag"),
        (&["--enable-v2", "true"], "'true' is not a valid flag"),
        (&["--", "--name"], "'--name' is not a valid flag"),
        (&["-"], "'-' is not a valid flag"),
        (
            &["--election-timeout", "400"],
            "--election-timeout[400ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
        (
            &["--election-timeout", "60000"],
            "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
        ),
        (&["--election-timeout", "0"], "--election-timeout must be >0 (set to 0ms)"),
        (&["--heartbeat-interval", "0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (
            &["--listen-client-urls", "http://127.0.0.1:1"],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (&["--listen-peer-urls", "http://foo.bar:1"], "expected IP in URL for binding (http://foo.bar:1)"),
        (&["--listen-peer-urls", "http://127.0.0.1:99999"], "listen tcp: address 99999: invalid port"),
        (
            &["--initial-advertise-peer-urls", "http://:1"],
            "--initial-advertise-peer-urls \"http://:1\" must be \"host:port\" (unexpected empty host (http://:1))",
        ),
        (
            &["--listen-peer-urls", "https://127.0.0.1:1"],
            "cannot listen on TLS for https://127.0.0.1:1: KeyFile and CertFile are not presented",
        ),
        (
            &["--listen-peer-urls", "unixs://localhost:1"],
            "cannot listen on TLS for unixs://localhost:1: KeyFile and CertFile are not presented",
        ),
        (&["--cert-file", "c"], "KeyFile and CertFile must both be present[key: , cert: c]"),
        (&["--cipher-suites", "TLS_NONE"], "unexpected TLS cipher suite \"TLS_NONE\""),
        (
            &["--peer-cert-allowed-cn", "a", "--peer-cert-allowed-hostname", "b"],
            "AllowedCN and AllowedHostname are mutually exclusive (cn=\"a\", hostname=\"b\")",
        ),
        (&["--listen-peer-urls", ""], "--listen-peer-urls must name at least one URL"),
        (&["--name", ""], "--name must not be empty"),
        (&["--snapshot-count", "0"], "--snapshot-count must be at least 1 (set to 0)"),
        (&["--ringd-request-header-max", "10"], "--ringd-request-header-max must be at least 1024 (set to 10)"),
    ] {
        assert_eq!(bad(args), verifying(text), "{args:?}");
    }
    let text = parse(&["--listen-client-urls", "http://127.0.0.1:1"], &[]).unwrap_err().to_string();
    assert!(
        text.ends_with("this ringd process must advertise accessible url(s) to each connected client.\n"),
        "{text}"
    );
    assert_eq!(
        bad(&["--initial-cluster", "default"]),
        (1, "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: ".to_owned())
    );
}

#[test]
fn variables_stand_in_for_flags_but_not_beside_them() {
    let config = parse(
        &["--heartbeat-interval", "50"],
        &[("ETCD_NAME", "y"), ("RINGD_CONNECTIONS_MAX", "7"), ("ETCD_ENABLE_V2", "true"), ("PATH", "/bin")],
    )
    .unwrap();
    assert_eq!((config.name.as_str(), config.connections_max), ("y", 7));
    assert!(config.notices.contains(&Notice::Info("recognized and used environment variable ETCD_NAME=y".into())));
    assert_eq!(
        bad_with(&["--name", "x"], &[("ETCD_NAME", "y")]),
        (
            1,
            "conflicting environment variable \"ETCD_NAME\" is shadowed by corresponding command-line flag (either \
             unset environment variable or disable flag)"
                .to_owned()
        )
    );
    assert_eq!(parse(&["--name", "x"], &[("ETCD_NAME", "")]).unwrap().name, "x", "empty is unset");
    let config = parse(&[], &[("ETCD_NOPE", "abc"), ("RINGD_NOPE", "1")]).unwrap();
    for text in ["unrecognized environment variable ETCD_NOPE=abc", "unrecognized environment variable RINGD_NOPE=1"] {
        assert!(config.notices.contains(&Notice::Warn(text.to_owned())), "{text}");
    }
    assert_eq!(
        bad_with(&[], &[("ETCD_HEARTBEAT_INTERVAL", "abc")]),
        verifying("invalid value \"abc\" for ETCD_HEARTBEAT_INTERVAL: parse error")
    );
    assert_eq!(
        bad_with(&[], &[("ETCD_INITIAL_CLUSTER_STATE", "foo")]),
        verifying("invalid value \"foo\" for ETCD_INITIAL_CLUSTER_STATE: invalid value")
    );
    assert_eq!(
        bad_with(&[], &[("ETCD_LISTEN_CLIENT_URLS", "http://127.0.0.1:1")]),
        verifying("--advertise-client-urls is required when --listen-client-urls is set explicitly")
    );
}

#[test]
fn a_request_limit_counts_for_forms_when_it_is_given() {
    assert_eq!(good(&["--max-request-bytes=2000"]).limits.body_bytes_max, 2000);
    assert_eq!(good(&["--max-request-bytes=1572864"]).limits.body_bytes_max, 1_572_864);
    let both = ["--max-request-bytes=99999999", "--ringd-request-body-max=300"];
    assert_eq!(good(&both).limits.body_bytes_max, 300, "the smaller counts");
    assert_eq!(good(&["--quota-backend-bytes=5000000000"]).ceilings.quota, 5_000_000_000);
}

#[test]
fn what_does_nothing_is_noted_and_what_would_mislead_is_refused() {
    let warnings = |args: &[&str]| {
        let notices = good(args).notices;
        notices.into_iter().filter(|n| matches!(n, Notice::Warn(text) if text.contains("has no effect"))).count()
    };
    assert_eq!(warnings(&["--enable-v2"]), 0);
    assert_eq!(warnings(&["--enable-v2=false", "--max-txn-ops=1"]), 2);
    assert_eq!(warnings(&["--log-outputs=stderr", "--proxy=off", "--auto-tls=false", "--host-whitelist=*"]), 0);
    for args in [["--unsafe-no-fsync"], ["--host-whitelist=a"], ["--experimental-enable-v2v3=/x"]] {
        let (code, text) = bad(&args);
        assert_eq!(code, 1);
        assert!(text.contains(" cannot be "), "{text}");
    }
}

/// A value that is not the default.
fn another(flag: &flags::Flag) -> String {
    let text = match flag.kind {
        flags::Kind::Bool if flag.default == "true" => "false",
        flags::Kind::Bool => "true",
        flags::Kind::Uint => "77",
        flags::Kind::Urls => "http://127.0.0.1:77",
        flags::Kind::Choice(values) => values.iter().find(|value| **value != flag.default).expect("a choice"),
        flags::Kind::Text => "other",
    };
    assert_eq!(go_flags::check(flag.kind, text), Ok(()), "--{}", flag.name);
    text.to_owned()
}

#[test]
fn every_flag_without_its_effect_says_why() {
    let (mut noted, mut refused) = (0, 0);
    for flag in FLAGS {
        let given = format!("--{}={}", flag.name, another(flag));
        match flag.status {
            flags::Status::Effective => {}
            flags::Status::NoEffect(reason) => {
                let said = format!("--{} has no effect: {reason}", flag.name);
                let notices = good(&[&given]).notices;
                assert!(notices.iter().any(|notice| matches!(notice, Notice::Warn(text) if *text == said)), "{given}");
                noted += 1;
            }
            flags::Status::Refused(accepted, reason) => {
                let (code, text) = bad(&[&given]);
                assert!(code == 1 && text.contains(reason), "{given}: {text}");
                for value in accepted.iter().chain([&flag.default]) {
                    good(&[&format!("--{}={value}", flag.name)]);
                }
                refused += 1;
            }
        }
    }
    assert!(noted > 10 && refused > 2, "{noted} {refused}");
}

#[test]
fn there_is_one_way_to_the_cluster() {
    let conflict = verifying(
        "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery\" or \
         \"discovery-srv\"",
    );
    let discovery = "--discovery=http://h:1/v2/keys/tok";
    for other in ["--initial-cluster=default=http://localhost:2380", "--discovery-srv=example.org"] {
        assert_eq!(bad(&[discovery, other]), conflict, "{other}");
    }
    let found = good(&[discovery, "--initial-cluster=", "--initial-cluster-token=t", "--discovery-proxy=p:3128"]);
    assert_eq!(found.initial_cluster_token, "http://h:1/v2/keys/tok");
    assert_eq!(found.initial_cluster_text(), "default=http://localhost:2380");
    assert_eq!(found.joining.discovery_proxy.expect("given").endpoint.to_string(), "http://p:3128");
    for refused in ["--discovery=foo", "--discovery=ftp://h/t", "--ringd-dns-server=ns", "--proxy-refresh-interval=0"] {
        assert_eq!(bad(&[refused]).0, 1, "{refused}");
    }
}

#[test]
fn who_may_become_a_proxy_need_not_advertise() {
    let listen = "--listen-client-urls=http://127.0.0.1:1";
    let discovery = "--discovery=http://h:1/tok";
    assert_eq!(good(&[listen, "--proxy=readonly"]).proxy.mode, ProxyMode::ReadOnly);
    assert_eq!(good(&[listen, discovery]).joining.fallback, Fallback::Proxy);
    assert_eq!(bad(&[listen, discovery, "--discovery-fallback=exit"]).0, 1);
    let settings = good(&["--proxy=on", "--proxy-read-timeout=7", "--proxy-write-timeout=0"]).proxy;
    assert_eq!((settings.read_timeout, settings.write_timeout), (Some(Duration::from_millis(7)), None));
    assert_eq!(settings.dial_timeout, Some(Duration::from_secs(1)));
}

#[test]
fn a_first_start_needs_its_own_name_and_urls() {
    let check = |args: &[&str]| good(args).check_bootstrap().map_err(|error| error.to_string());
    assert_eq!(
        check(&["--initial-cluster", "a=http://127.0.0.1:2380"]),
        Err("couldn't find local name \"default\" in the initial cluster configuration".to_owned())
    );
    assert_eq!(
        check(&["--initial-cluster", "default=http://127.0.0.1:2381"]),
        Err("--initial-cluster has default=http://127.0.0.1:2381 but missing from \
             --initial-advertise-peer-urls=http://localhost:2380"
            .to_owned())
    );
    assert_eq!(
        check(&[
            "--initial-advertise-peer-urls=http://h:1,http://h:2",
            "--initial-cluster=default=http://h:1,b=http://h:3"
        ]),
        Err("--initial-advertise-peer-urls has http://h:2 but missing from --initial-cluster=default=http://h:1"
            .to_owned())
    );
    assert_eq!(
        check(&["--initial-cluster", "a=http://localhost:2380,default=http://localhost:2380"]),
        Err("initial cluster a=http://localhost:2380,default=http://localhost:2380 has duplicate url".to_owned())
    );
    assert_eq!(check(&["--initial-cluster", "a=http://h:1, default=http://127.0.0.1:2380,"]), Ok(()));
    assert_eq!(check(&["--name=n", "--initial-advertise-peer-urls=http://h:1,http://h:2"]), Ok(()));
}

#[test]
fn help_and_version_go_to_stdout() {
    for args in [["--help"], ["-h"], ["--help=true"], ["-help"]] {
        let error = parse(&args, &[("ETCD_NAME", "x")]).unwrap_err();
        assert_eq!((error.exit_code(), error.is_for_stdout()), (0, true));
        let text = error.to_string();
        for flag in FLAGS {
            assert!(text.contains(&format!("--{}", flag.name)), "{} is not in the help", flag.name);
        }
    }
    assert_eq!(parse(&["--version"], &[]), Err(ConfigError::Asked(version_text())));
    assert_eq!(good(&["--version=false"]).name, "default");
}

#[test]
fn origins_are_any_or_listed() {
    let origins = good(&["--cors", "http://b.example:8080,http://a.example:8080"]).cors;
    assert_eq!(origins, Cors::Only(vec!["http://b.example:8080".into(), "http://a.example:8080".into()]));
    assert_eq!(good(&["--cors", "*"]).cors, Cors::Any);
}

#[test]
fn the_packaged_environment_file_makes_a_member_alone_or_of_three() {
    let text = include_str!("../../tools/packaging/ringd.conf");
    let pairs = |start: &'static str| {
        let lines = text.lines().filter_map(move |line| line.strip_prefix(start));
        let of_member = lines.filter(|line| line.starts_with("ETCD_") && !line.contains("METRICS"));
        of_member.map(|line| line.split_once('=').expect("NAME=VALUE")).collect::<Vec<_>>()
    };
    for (variables, members, name) in [(pairs(""), 1, "default"), (pairs("#"), 3, "infra1")] {
        let config = parse(&[], &variables).unwrap();
        assert_eq!(config.check_bootstrap(), Ok(()));
        assert_eq!((config.initial_cluster.len(), config.name.as_str()), (members, name));
        assert!(!config.notices.iter().any(|notice| matches!(notice, Notice::Warn(_))), "{:?}", config.notices);
    }
}

#[test]
fn metrics_listeners_are_further_places() {
    let none = good(&[]);
    assert!(none.listen_metrics_urls.is_empty() && !none.metrics_extensive && !none.pprof);
    let urls = "http://127.0.0.1:2381,http://127.0.0.1:2381,http://127.0.0.1:2382";
    let some = good(&["--listen-metrics-urls", urls, "--metrics=extensive", "--enable-pprof"]);
    assert_eq!((some.listen_metrics_urls.len(), some.listen_metrics_addresses.len()), (3, 2));
    assert!(some.metrics_extensive && some.pprof);
    let secure = parse(&["--listen-metrics-urls", "https://127.0.0.1:2381"], &[]).unwrap_err();
    assert!(secure.to_string().contains("KeyFile and CertFile are not presented"), "{secure}");
    good(&["--listen-metrics-urls", "https://127.0.0.1:2381", "--auto-tls"]);
}
