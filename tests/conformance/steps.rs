//! Carries out the steps of one case.
//!
//! Owns: the meaning of every step kind. Touches: the server through `http`, the client through `ctl`.
//! Always: a case removes its keys when it is over, whatever happened, and its report names the step that failed.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::context::{Context, Target, fresh_prefix};
use crate::ctl::{self, Outcome, Running};
use crate::http::{self, Answer, Connection, Request, Watch};
use crate::matching::{Mismatch, Verdict, check, differ, short};

/// Waiting time of an ordinary request.
const REQUEST_TIMEOUT: f64 = 15.0;
/// The longest until the headers of a request that waits: it is given no longer than they take.
const START_SETTLE: f64 = 15.0;
/// Waiting time of an ordinary command.
const COMMAND_TIMEOUT: f64 = 70.0;
/// How long a command in the background is given to reach its waiting state.
const COMMAND_SETTLE: f64 = 0.6;

enum Background {
    Request(Watch),
    Command(Running),
}

fn seconds(step: &Value, member: &str, default: f64) -> Duration {
    Duration::from_secs_f64(step[member].as_f64().unwrap_or(default))
}

fn text<'a>(step: &'a Value, member: &str) -> &'a str {
    step[member].as_str().unwrap_or("")
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// The X-Etcd-Index of the server now.
pub fn current_index(host_port: &str) -> Result<i64, String> {
    let request = Request { method: "GET".into(), path: "/v2/keys/".into(), headers: Vec::new(), body: None };
    let answer = http::once(host_port, &request, Duration::from_secs(10)).map_err(|e| e.to_string())?;
    let index = answer.header("X-Etcd-Index").and_then(|v| v.parse().ok());
    index.ok_or_else(|| format!("GET /v2/keys/ answered {} without X-Etcd-Index", answer.status))
}

/// How many members the server lists, if it does.
pub fn member_count(host_port: &str) -> Option<usize> {
    let request = Request { method: "GET".into(), path: "/v2/members".into(), headers: Vec::new(), body: None };
    let answer = http::once(host_port, &request, Duration::from_secs(5)).ok()?;
    let list: Value = serde_json::from_slice(&answer.body).ok()?;
    list["members"].as_array().map(Vec::len)
}

/// Runs `case` against `target`; the error is its report.
pub fn run_case(target: &Target, case: &Value) -> Result<(), String> {
    let base = current_index(&target.host_port).map_err(|e| format!("  cannot reach the server: {e}"))?;
    let tmp = tempfile::tempdir().map_err(|e| format!("  cannot make a temporary directory: {e}"))?;
    let mut run = Run {
        ctx: Context {
            target: target.clone(),
            prefix: fresh_prefix(),
            base,
            vars: HashMap::new(),
            round: None,
            tmp: tmp.path().to_owned(),
        },
        background: HashMap::new(),
    };
    let steps = case["steps"].as_array().map_or(&[] as &[Value], Vec::as_slice);
    let outcome = steps.iter().enumerate().try_for_each(|(i, step)| {
        run.step(step)
            .map_err(|Mismatch(why)| format!("  step {} of {}: {}\n    {why}", i + 1, steps.len(), run.describe(step)))
    });
    run.clean_up(case);
    outcome
}

struct Run {
    ctx: Context,
    background: HashMap<String, Background>,
}

impl Run {
    fn clean_up(&mut self, case: &Value) {
        self.background.clear();
        // Cleaning up answers nothing of its own: what a failed case left may be missing already.
        for step in case["finally"].as_array().into_iter().flatten() {
            self.step(step).ok();
        }
        for name in [self.ctx.prefix.clone(), format!("_{}", self.ctx.prefix)] {
            let path = format!("/v2/keys/{name}?recursive=true");
            let request = Request { method: "DELETE".into(), path, headers: Vec::new(), body: None };
            http::once(&self.ctx.target.host_port, &request, Duration::from_secs(10)).ok();
        }
    }

    fn step(&mut self, step: &Value) -> Verdict {
        match step["do"].as_str().unwrap_or("http") {
            "http" => {
                let answer = send(&self.ctx, step)?;
                self.judge_answer(step, &answer)
            }
            "start" => {
                let settle = seconds(step, "settle", START_SETTLE);
                let watch = Watch::start(&self.ctx.target.host_port, request(&self.ctx, step), settle)
                    .map_err(|e| Mismatch(format!("request failed: {e}")))?;
                self.background.insert(text(step, "as").to_owned(), Background::Request(watch));
                Ok(())
            }
            "join" => self.join(step),
            "sleep" => {
                thread::sleep(seconds(step, "seconds", 0.0));
                Ok(())
            }
            "repeat" => self.repeat(step),
            "parallel" => self.parallel(step),
            "ctl" => {
                let outcome = self.command(step)?.finish(seconds(step, "timeout", COMMAND_TIMEOUT))?;
                self.judge_command(step, &outcome)
            }
            "ctl_start" => {
                let running = self.command(step)?;
                self.background.insert(text(step, "as").to_owned(), Background::Command(running));
                thread::sleep(seconds(step, "settle", COMMAND_SETTLE));
                Ok(())
            }
            "ctl_join" => self.join_command(step),
            "file" => {
                let path = self.ctx.expand(text(step, "path"));
                let (wanted, found) = (step["exists"].as_bool().unwrap_or(true), Path::new(&path).exists());
                if wanted == found { Ok(()) } else { differ(&path, format!("exists: {wanted}"), format!("{found}")) }
            }
            other => Err(Mismatch(format!("unknown step {other:?}"))),
        }
    }

    fn judge_answer(&mut self, step: &Value, answer: &Answer) -> Verdict {
        let expect = &step["expect"];
        let statuses = match &expect["status"] {
            Value::Array(several) => several.clone(),
            Value::Null => vec![json!(answer.status)],
            one => vec![one.clone()],
        };
        if !statuses.contains(&json!(answer.status)) {
            let got = format!("{}, body {}", answer.status, short(&answer.text()));
            return differ("status", expect["status"].to_string(), got);
        }
        self.save(step, &answer.text())?;
        self.judge_headers(expect, answer)?;
        if let Some(wanted) = expect.get("json") {
            let Ok(found) = serde_json::from_slice(&answer.body) else {
                return differ("body", format!("JSON {}", self.ctx.expand_value(wanted)), answer.text());
            };
            check(&self.ctx, wanted, &found, "body")?;
        }
        match expect.get("text") {
            Some(wanted) => check(&self.ctx, wanted, &Value::String(answer.text()), "body text"),
            None => Ok(()),
        }
    }

    fn judge_headers(&self, expect: &Value, answer: &Answer) -> Verdict {
        members(&expect["headers"]).try_for_each(|(name, wanted)| {
            let place = format!("header {name}");
            match (wanted, answer.header(name)) {
                (Value::Null, None) => Ok(()),
                (Value::Null, Some(found)) => differ(&place, "(absent)", found),
                (_, None) => differ(&place, self.ctx.expand_value(wanted).to_string(), "(absent)"),
                (_, Some(found)) => check(&self.ctx, wanted, &json!(found), &place),
            }
        })
    }

    /// Keeps the values a step wants saved: a path into the JSON answer, or `re:` with one group.
    fn save(&mut self, step: &Value, answer: &str) -> Verdict {
        let missing = |path: &str| Mismatch(format!("cannot find {path} in the answer: {}", short(answer)));
        for (name, path) in members(&step["save"]) {
            let path = path.as_str().unwrap_or("");
            let found = if let Some(pattern) = path.strip_prefix("re:") {
                let pattern = regex::Regex::new(pattern).map_err(|e| Mismatch(e.to_string()))?;
                pattern.captures(answer).map(|c| c[1].to_owned())
            } else {
                let whole: Value = serde_json::from_str(answer).map_err(|_| missing(path))?;
                match whole.pointer(&format!("/{}", path.replace('.', "/"))) {
                    Some(Value::String(s)) => Some(s.clone()),
                    other => other.map(Value::to_string),
                }
            };
            self.ctx.vars.insert(name.clone(), found.ok_or_else(|| missing(path))?);
        }
        Ok(())
    }

    fn join(&mut self, step: &Value) -> Verdict {
        let name = text(step, "as");
        let Some(Background::Request(watch)) = self.background.get(name) else {
            return Err(Mismatch(format!("no request was started as {name:?}")));
        };
        let (limit, hold) = (seconds(step, "timeout", 5.0), step["hold"] == true);
        if step["pending"] == true {
            let now = watch.wait(limit, |p| p.done);
            if now.done || (watch.stream && !now.lines().is_empty()) {
                let (status, body) = (now.answer.status, short(&now.answer.text()));
                let error = now.error.as_deref().unwrap_or("");
                return Err(Mismatch(format!("{name} should still be waiting, but it ended: {status} {body} {error}")));
            }
            drop(now);
            if !hold {
                watch.close();
            }
            return Ok(());
        }
        if watch.stream {
            let wanted = step["expect"]["events"].as_array().map_or(0, Vec::len);
            let enough = wanted.max(step["events"].as_u64().unwrap_or(1) as usize);
            drop(watch.wait(limit, |p| p.done || p.lines().len() >= enough));
            thread::sleep(Duration::from_millis(150)); // an event too many would come now
            let now = watch.wait(Duration::ZERO, |_| true);
            let (answer, lines) = (now.answer.clone(), now.lines());
            drop(now);
            if !hold {
                watch.close();
            }
            let events = lines.iter().map(|l| serde_json::from_str(l).unwrap_or_else(|_| json!(l))).collect();
            let expect = &step["expect"];
            if expect.get("status").is_some_and(|s| *s != json!(answer.status)) {
                return differ("status", expect["status"].to_string(), answer.status.to_string());
            }
            self.judge_headers(expect, &answer)?;
            return check(&self.ctx, expect.get("events").unwrap_or(&json!([])), &Value::Array(events), "events");
        }
        let now = watch.wait(limit, |p| p.done);
        if !now.done {
            return Err(Mismatch(format!("{name} ({}) did not end within {limit:?}", watch.path)));
        }
        if let Some(error) = &now.error {
            return Err(Mismatch(format!("{name} failed: {error}")));
        }
        let answer = now.answer.clone();
        drop(now);
        self.judge_answer(step, &answer)
    }

    fn repeat(&mut self, step: &Value) -> Verdict {
        let inner = &step["step"];
        let failed = |e: std::io::Error| Mismatch(format!("request failed: {e}"));
        let limit = Duration::from_secs_f64(REQUEST_TIMEOUT);
        let host_port = self.ctx.target.host_port.clone();
        let mut connection = Connection::open(&host_port, limit).map_err(failed)?;
        let mut round = |ctx: &Context, i: u64| {
            let wanted = request(ctx, inner);
            let try_once = |c: &mut Connection| c.send(&wanted).and_then(|()| c.receive(&wanted.method));
            let answer = match try_once(&mut connection) {
                Ok(answer) => answer,
                // No answer is not a closed connection: asking twice would hide it, and write twice.
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(Mismatch(format!("round {i} was not answered within {limit:?}")));
                }
                Err(_) => {
                    // A kept-alive connection may be closed under us: once more on a new one.
                    connection = Connection::open(&host_port, limit).map_err(failed)?;
                    try_once(&mut connection).map_err(failed)?
                }
            };
            let statuses = step["status"].as_array();
            if statuses.is_none_or(|list| list.contains(&json!(answer.status))) {
                return Ok(());
            }
            let got = format!("{} {}", answer.status, short(&answer.text()));
            differ(&format!("status of round {i}"), step["status"].to_string(), got)
        };
        let outcome = (0..step["times"].as_u64().unwrap_or(0)).try_for_each(|i| {
            self.ctx.round = Some(i as usize);
            round(&self.ctx, i)
        });
        self.ctx.round = None;
        outcome
    }

    fn parallel(&mut self, step: &Value) -> Verdict {
        let times = step["times"].as_u64().unwrap_or(0) as usize;
        let answers: Vec<Result<Answer, Mismatch>> = thread::scope(|scope| {
            let all: Vec<_> = (0..times)
                .map(|i| {
                    let ctx = Context { round: Some(i), ..self.ctx.clone() };
                    scope.spawn(move || send(&ctx, step))
                })
                .collect();
            all.into_iter().map(|t| t.join().expect("sending does not panic")).collect()
        });
        let answers: Vec<Answer> = answers.into_iter().collect::<Result<_, _>>()?;
        let expect = &step["expect"];
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        answers.iter().for_each(|a| *counts.entry(a.status.to_string()).or_default() += 1);
        if let Some(wanted) = expect.get("statuses") {
            check(&self.ctx, wanted, &json!(counts), "answers by status")?;
        }
        let events: Vec<Value> = answers.iter().filter_map(|a| serde_json::from_slice(&a.body).ok()).collect();
        let nodes: Vec<&Value> = events.iter().filter_map(|e| e.get("node")).collect();
        if let Some(wanted) = expect.get("keys") {
            let keys: Vec<&Value> = nodes.iter().map(|n| &n["key"]).collect();
            check(&self.ctx, &json!({"$set": wanted}), &json!(keys), "keys")?;
        }
        if let Some(wanted) = expect["indexes"].as_array() {
            let mut found: Vec<i64> = nodes.iter().filter_map(|n| n["modifiedIndex"].as_i64()).collect();
            found.sort_unstable();
            let wanted: Vec<Value> = wanted.iter().map(|i| json!({"$idx": i})).collect();
            check(&self.ctx, &json!(wanted), &json!(found), "modifiedIndex of the answers")?;
        }
        if expect["key_is_index"] == true {
            for node in nodes {
                let wanted = format!("{:020}", node["createdIndex"].as_u64().unwrap_or(0));
                let last = node["key"].as_str().and_then(|k| k.rsplit('/').next()).unwrap_or("");
                if last != wanted {
                    return differ("node.key", wanted, last);
                }
            }
        }
        Ok(())
    }

    fn arguments(&self, step: &Value) -> Vec<String> {
        let argv: Vec<String> =
            step["argv"].as_array().into_iter().flatten().filter_map(|a| a.as_str().map(str::to_owned)).collect();
        ctl::arguments(&self.ctx, &argv, step["raw"] == true)
    }

    fn command(&self, step: &Value) -> Result<Running, Mismatch> {
        let env: Vec<(String, String)> =
            members(&step["env"]).map(|(k, v)| (k.clone(), v.as_str().unwrap_or("").to_owned())).collect();
        Running::start(&self.ctx, &self.arguments(step), &env, &self.ctx.expand(text(step, "stdin")))
    }

    fn join_command(&mut self, step: &Value) -> Verdict {
        let name = text(step, "as");
        let Some(Background::Command(mut running)) = self.background.remove(name) else {
            return Err(Mismatch(format!("no command was started as {name:?}")));
        };
        if step.get("interrupt_after").is_some() {
            running.run_for(seconds(step, "interrupt_after", 0.0), step["must_run"] == true)?;
            running.interrupt();
        }
        let outcome = running.finish(seconds(step, "timeout", 8.0))?;
        self.judge_command(step, &outcome)
    }

    fn judge_command(&mut self, step: &Value, outcome: &Outcome) -> Verdict {
        self.save(step, &outcome.stdout)?;
        let expect = &step["expect"];
        let all = || {
            if let Some(code) = expect.get("code") {
                check(&self.ctx, code, &json!(outcome.code), "exit code")?;
            }
            if let Some(wanted) = expect.get("stdout") {
                check(&self.ctx, wanted, &json!(outcome.stdout), "stdout")?;
            }
            if let Some(wanted) = expect.get("stdout_json") {
                match serde_json::from_str(&outcome.stdout) {
                    Ok(found) => check(&self.ctx, wanted, &found, "stdout")?,
                    Err(_) => differ("stdout", format!("JSON {wanted}"), &outcome.stdout)?,
                }
            }
            expect.get("stderr").map_or(Ok(()), |w| check(&self.ctx, w, &json!(outcome.stderr), "stderr"))
        };
        all().map_err(|Mismatch(why)| {
            let Outcome { code, stdout, stderr } = outcome;
            let (stdout, stderr) = (short(&format!("{stdout:?}")), short(&format!("{stderr:?}")));
            Mismatch(format!("{why}\n      (exit {code}, stdout {stdout}, stderr {stderr})"))
        })
    }

    fn describe(&self, step: &Value) -> String {
        let kind = step["do"].as_str().unwrap_or("http");
        match kind {
            "ctl" | "ctl_start" => format!("{kind}: {}", self.arguments(step).join(" ")),
            "http" | "start" | "parallel" => {
                let body = ["form", "json", "body"].iter().find_map(|m| step.get(m));
                let body = body.map_or_else(String::new, |b| short(&self.ctx.expand_value(b).to_string()));
                let method = step["method"].as_str().unwrap_or("GET");
                format!("{kind}: {method} {} {body}", self.ctx.expand(text(step, "path")))
            }
            "repeat" => format!("repeat {} times: {}", step["times"], self.describe(&step["step"])),
            _ => {
                let shown = members(step).filter(|(k, _)| *k != "expect");
                shown.map(|(k, v)| format!("{k} {v}")).collect::<Vec<_>>().join(", ")
            }
        }
    }
}

fn send(ctx: &Context, step: &Value) -> Result<Answer, Mismatch> {
    http::once(&ctx.target.host_port, &request(ctx, step), seconds(step, "timeout", REQUEST_TIMEOUT))
        .map_err(|e| Mismatch(format!("request failed: {e}")))
}

/// The request a step describes.
fn request(ctx: &Context, step: &Value) -> Request {
    const FORM: &str = "application/x-www-form-urlencoded";
    let mut headers: Vec<(String, String)> =
        members(&step["headers"]).map(|(k, v)| (k.clone(), ctx.expand(v.as_str().unwrap_or("")))).collect();
    let has_type = headers.iter().any(|(k, _)| k.eq_ignore_ascii_case("content-type"));
    let mut content_type = None;
    let body = if let Some(form) = step.get("form") {
        content_type = Some(FORM);
        Some(encode_form(ctx, form).into_bytes())
    } else if let Some(value) = step.get("json") {
        content_type = Some("application/json");
        Some(ctx.expand_value(value).to_string().into_bytes())
    } else if step.get("body").is_some() {
        Some(ctx.expand(text(step, "body")).into_bytes())
    } else if let Some(repeated) = step.get("body_repeat") {
        content_type = Some(FORM);
        let times = repeated["times"].as_u64().unwrap_or(0) as usize;
        Some((ctx.expand(text(repeated, "prefix")) + &text(repeated, "text").repeat(times)).into_bytes())
    } else {
        None
    };
    if let Some(kind) = content_type.filter(|_| !has_type) {
        headers.push(("Content-Type".into(), kind.into()));
    }
    if let Some(credentials) = step["auth"].as_str() {
        headers.push(("Authorization".into(), format!("Basic {}", base64(ctx.expand(credentials).as_bytes()))));
    }
    let method = step["method"].as_str().unwrap_or("GET").to_owned();
    Request { method, path: ctx.expand(text(step, "path")), headers, body }
}

fn encode_form(ctx: &Context, form: &Value) -> String {
    let pair = |key: &str, value: &Value| {
        format!("{}={}", quote(&ctx.expand(key)), quote(&ctx.expand(value.as_str().unwrap_or(""))))
    };
    let pairs: Vec<String> = match form {
        Value::Array(list) => list.iter().map(|p| pair(p[0].as_str().unwrap_or(""), &p[1])).collect(),
        object => members(object).map(|(k, v)| pair(k, v)).collect(),
    };
    pairs.join("&")
}

fn quote(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let word = group.iter().enumerate().fold(0u32, |w, (i, b)| w | u32::from(*b) << (16 - 8 * i));
        for i in 0..4 {
            let digit = ALPHABET[(word >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= group.len() { char::from(digit) } else { '=' });
        }
    }
    out
}
