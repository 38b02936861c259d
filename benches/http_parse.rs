//! What parsing a request and writing an answer cost. `cargo bench --bench http_parse`.
//!
//! Requests: the shortest that is legal, and what etcd's Go client sends. Each operation works on warm memory and
//! reuses its output buffer, as a connection does.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringd::wire::http_body::{ChunkDecoder, Next, RequestReader};
use ringd::wire::http_reply::{JSON, ReplyHead, append_reply, cors_block, http_date};
use ringd::wire::http_request::{Limits, parse_head};

const GET_SHORT: &[u8] = b"GET /v2/keys/foo HTTP/1.1\r\nHost: 127.0.0.1:2379\r\n\r\n";
const GET_GO: &[u8] =
    b"GET /v2/keys/some/key?quorum=false&recursive=false&sorted=false HTTP/1.1\r\nHost: 127.0.0.1:2379\r\n\
User-Agent: Go-http-client/1.1\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n\r\n";
const PUT_GO: &[u8] = b"PUT /v2/keys/some/key HTTP/1.1\r\nHost: 127.0.0.1:2379\r\nUser-Agent: Go-http-client/1.1\r\n\
Content-Length: 134\r\nContent-Type: application/x-www-form-urlencoded\r\nAccept-Encoding: gzip\r\n\r\n\
value=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
const BODY: &[u8] =
    br#"{"action":"get","node":{"key":"/foo","value":"bar","modifiedIndex":123456,"createdIndex":123456}}"#;

fn requests(c: &mut Criterion) {
    let limits = Limits::default();
    let mut group = c.benchmark_group("request");
    for (name, bytes) in [("get_short", GET_SHORT), ("get_go", GET_GO), ("put_go", PUT_GO)] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("head/{name}"), |b| b.iter(|| parse_head(black_box(bytes), &limits).is_ok()));
        group.bench_function(format!("reader/{name}"), |b| {
            let mut reader = RequestReader::new();
            b.iter(|| match reader.next(black_box(bytes), &limits) {
                Next::Request(_) => reader.served(),
                other => panic!("{other:?}"),
            });
        });
    }
    group.finish();
}

fn chunks(c: &mut Criterion) {
    let mut encoded = Vec::new();
    for _ in 0..16 {
        encoded.extend_from_slice(b"100\r\n");
        encoded.extend_from_slice(&[b'x'; 256]);
        encoded.extend_from_slice(b"\r\n");
    }
    encoded.extend_from_slice(b"0\r\n\r\n");
    let mut group = c.benchmark_group("chunked");
    group.throughput(Throughput::Bytes(4096));
    let mut buf = encoded.clone();
    group.bench_function("decode_4k_in_256s", |b| {
        b.iter(|| {
            buf.copy_from_slice(&encoded);
            ChunkDecoder::new(1 << 20).advance(black_box(&mut buf)).is_ok()
        });
    });
    group.finish();
}

fn replies(c: &mut Criterion) {
    let cors = cors_block("*");
    let mut date = [0; 29];
    http_date(1_700_000_000, &mut date);
    let head = ReplyHead {
        cors: &cors,
        content_type: JSON,
        cluster_id: Some("cdf818194e3a8c32"),
        etcd_index: Some(123_456),
        raft: Some((234_567, 3)),
        ..ReplyHead::new(200, &date)
    };
    let mut group = c.benchmark_group("reply");
    let mut out = Vec::with_capacity(1024);
    group.bench_function("keys", |b| {
        b.iter(|| {
            out.clear();
            append_reply(&mut out, black_box(&head), |out| out.extend_from_slice(BODY));
            out.len()
        });
    });
    group.bench_function("date", |b| b.iter(|| http_date(black_box(1_700_000_000), &mut date)));
    group.finish();
}

criterion_group!(benches, requests, chunks, replies);
criterion_main!(benches);
