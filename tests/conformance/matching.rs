//! Compares what a server or client answered with what a case expects.
//!
//! Owns: every placeholder of the case format. Touches: nothing. Always: a mismatch names the place in the answer,
//! what was expected there and what was found; an unknown placeholder is a mismatch, never a match.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use crate::context::Context;

/// Longest text quoted in a report, in characters.
const QUOTE_LIMIT: usize = 600;

static PATTERN_PART: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\{RE:((?:[^{}]|\{\d+(?:,\d*)?\})*)\}").expect("constant pattern"));
static RFC3339: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$").expect("constant pattern")
});
static HEX: LazyLock<Regex> = LazyLock::new(|| Regex::new("^[0-9a-f]{1,16}$").expect("constant pattern"));
static GO_DURATION: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^(\d+h)?(\d+m)?(\d+(\.\d+)?(s|ms|µs|ns))?$").expect("constant pattern"));

/// Why a case failed, as the text of its report.
#[derive(Debug)]
pub struct Mismatch(pub String);

pub type Verdict = Result<(), Mismatch>;

/// `text` cut to what a report can hold.
pub fn short(text: &str) -> String {
    if text.chars().count() <= QUOTE_LIMIT {
        return text.to_owned();
    }
    format!("{}... ({} chars)", text.chars().take(QUOTE_LIMIT).collect::<String>(), text.chars().count())
}

fn show(value: &Value) -> String {
    short(&value.to_string())
}

/// A mismatch at `place`.
pub fn differ(place: &str, expected: impl AsRef<str>, got: impl AsRef<str>) -> Verdict {
    let place = if place.is_empty() { "(top)" } else { place };
    Err(Mismatch(format!(
        "at {place}\n      expected: {}\n      got:      {}",
        short(expected.as_ref()),
        short(got.as_ref())
    )))
}

fn ensure(ok: bool, place: &str, expected: &Value, got: &Value) -> Verdict {
    if ok { Ok(()) } else { differ(place, show(expected), show(got)) }
}

/// A text against an expected text that may contain templates and `{RE:...}` parts.
pub fn text_matches(ctx: &Context, expected: &str, got: &str) -> bool {
    if !PATTERN_PART.is_match(expected) {
        return ctx.expand(expected) == got;
    }
    let mut pattern = String::from(r"(?s)\A");
    let mut rest = 0;
    for part in PATTERN_PART.captures_iter(expected) {
        let whole = part.get(0).expect("group 0 always exists");
        pattern.push_str(&regex::escape(&ctx.expand(&expected[rest..whole.start()])));
        pattern.push_str(&format!("(?:{})", &part[1]));
        rest = whole.end();
    }
    pattern.push_str(&regex::escape(&ctx.expand(&expected[rest..])));
    pattern.push_str(r"\z");
    Regex::new(&pattern).is_ok_and(|r| r.is_match(got))
}

/// Compares `got` with `expected`; `place` is where in the answer we are, for the report.
pub fn check(ctx: &Context, expected: &Value, got: &Value, place: &str) -> Verdict {
    match expected {
        Value::Object(members) => match members.keys().find(|k| k.starts_with('$') && *k != "$min") {
            Some(kind) => check_placeholder(ctx, kind, members, got, place),
            None => check_object(ctx, members, got, place),
        },
        Value::String(text) => match got {
            Value::String(found) if text_matches(ctx, text, found) => Ok(()),
            Value::String(found) => differ(place, format!("{:?}", ctx.expand(text)), format!("{found:?}")),
            other => differ(place, format!("{:?}", ctx.expand(text)), show(other)),
        },
        Value::Array(items) => {
            let Value::Array(found) = got else { return differ(place, show(expected), show(got)) };
            if items.len() != found.len() {
                let wanted = format!("{} items: {}", items.len(), ctx.expand_value(expected));
                return differ(place, wanted, format!("{} items: {got}", found.len()));
            }
            items.iter().zip(found).enumerate().try_for_each(|(i, (e, a))| check(ctx, e, a, &format!("{place}[{i}]")))
        }
        other => ensure(other == got, place, other, got),
    }
}

fn check_object(ctx: &Context, members: &Map<String, Value>, got: &Value, place: &str) -> Verdict {
    let Value::Object(found) = got else {
        return differ(place, show(&Value::Object(members.clone())), show(got));
    };
    let wanted: Vec<(String, &Value)> = members.iter().map(|(k, v)| (ctx.expand(k), v)).collect();
    for (key, value) in &wanted {
        if !found.contains_key(key) {
            return differ(&format!("{place}.{key}"), show(&ctx.expand_value(value)), "(absent)");
        }
    }
    for (key, value) in found {
        if !wanted.iter().any(|(k, _)| k == key) {
            return differ(&format!("{place}.{key}"), "(absent)", show(value));
        }
    }
    wanted.iter().try_for_each(|(key, value)| check(ctx, value, &found[key], &format!("{place}.{key}")))
}

fn check_placeholder(ctx: &Context, kind: &str, members: &Map<String, Value>, got: &Value, place: &str) -> Verdict {
    let whole = Value::Object(members.clone());
    let arg = &members[kind];
    let holds = |ok: bool| ensure(ok, place, &whole, got);
    match kind {
        "$any" => holds(is_any(arg.as_str().unwrap_or(""), got)),
        "$idx" => {
            let wanted = ctx.base + arg.as_i64().unwrap_or(0);
            let found = got.as_i64().or_else(|| got.as_str().and_then(|s| s.parse().ok()));
            if found == Some(wanted) {
                return Ok(());
            }
            let meaning = found.map_or_else(String::new, |n| format!(" = start{:+}", n - ctx.base));
            differ(place, format!("{wanted} = start{:+}", wanted - ctx.base), format!("{got}{meaning}"))
        }
        "$ttl" => holds(got.as_f64().is_some_and(|n| (n - arg.as_f64().unwrap_or(f64::NAN)).abs() <= 1.0)),
        "$range" => holds(got.as_f64().is_some_and(|n| {
            let bound = |i: usize| arg[i].as_f64().unwrap_or(f64::NAN);
            bound(0) <= n && n <= bound(1)
        })),
        "$plus" | "$atleast" => {
            let name = arg[0].as_str().unwrap_or("");
            let saved = ctx.vars.get(name).and_then(|v| v.parse::<i64>().ok());
            let Some(wanted) = saved.zip(arg[1].as_i64()).map(|(a, b)| a + b) else {
                return differ(place, format!("a number saved as {name}"), "nothing saved");
            };
            let ok = got.as_i64().is_some_and(|n| if kind == "$plus" { n == wanted } else { n >= wanted });
            if ok { Ok(()) } else { differ(place, format!("{kind} {name}: {wanted}"), show(got)) }
        }
        "$repeat" => {
            let times = arg[1].as_u64().unwrap_or(0) as usize;
            let wanted = arg[0].as_str().unwrap_or("").repeat(times);
            if got.as_str() == Some(wanted.as_str()) {
                return Ok(());
            }
            differ(place, format!("{} repeated {times} times", arg[0]), show(got))
        }
        "$re" => {
            let pattern = format!("(?s){}", ctx.expand(arg.as_str().unwrap_or("")));
            holds(Regex::new(&pattern).is_ok_and(|r| got.as_str().is_some_and(|s| r.is_match(s))))
        }
        "$set" => check_set(ctx, arg, got, place),
        "$contains" | "$lacks" => check_members(ctx, kind == "$contains", arg, got, place),
        "$each" => {
            let least = members.get("$min").and_then(Value::as_u64).unwrap_or(0) as usize;
            match got {
                Value::Array(found) if found.len() >= least => {
                    found.iter().enumerate().try_for_each(|(i, a)| check(ctx, arg, a, &format!("{place}[{i}]")))
                }
                Value::Object(found) if found.len() >= least => {
                    found.iter().try_for_each(|(k, a)| check(ctx, arg, a, &format!("{place}[{k}]")))
                }
                _ => holds(false),
            }
        }
        "$has" => {
            let (Value::Object(found), Value::Object(wanted)) = (got, arg) else { return holds(false) };
            wanted.iter().try_for_each(|(key, value)| {
                let (key, place) = (ctx.expand(key), format!("{place}.{key}"));
                found
                    .get(&key)
                    .map_or_else(|| differ(&place, show(value), "(absent)"), |a| check(ctx, value, a, &place))
            })
        }
        "$lines" => {
            let mut wanted: Vec<String> = texts(arg).map(|line| ctx.expand(line)).collect();
            let mut found: Vec<&str> = got.as_str().unwrap_or("").lines().collect();
            wanted.sort();
            found.sort();
            if wanted == found { Ok(()) } else { differ(place, format!("{wanted:?}"), format!("{found:?}")) }
        }
        "$oneof" => holds(items(arg).any(|e| check(ctx, e, got, place).is_ok())),
        "$all" => items(arg).try_for_each(|e| check(ctx, e, got, place)),
        other => Err(Mismatch(format!("unknown placeholder {other}"))),
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    items(value).filter_map(Value::as_str)
}

fn is_any(kind: &str, got: &Value) -> bool {
    let text_is = |pattern: &Regex| got.as_str().is_some_and(|s| pattern.is_match(s));
    match kind {
        "any" => true,
        "string" => got.is_string(),
        "number" => got.is_number(),
        "int" => got.is_i64() || got.is_u64(),
        "uint" => got.is_u64() || got.as_str().is_some_and(|s| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit())),
        "bool" => got.is_boolean(),
        "object" => got.is_object(),
        "array" => got.is_array(),
        "time" => text_is(&RFC3339),
        "hex" => text_is(&HEX),
        "duration" => text_is(&GO_DURATION),
        "nonempty" => match got {
            Value::Null => false,
            Value::Bool(b) => *b,
            Value::Number(n) => n.as_f64() != Some(0.0),
            Value::String(s) => !s.is_empty(),
            Value::Array(a) => !a.is_empty(),
            Value::Object(o) => !o.is_empty(),
        },
        _ => false,
    }
}

/// The same members in any order.
fn check_set(ctx: &Context, wanted: &Value, got: &Value, place: &str) -> Verdict {
    let (Value::Array(wanted_items), Value::Array(found)) = (wanted, got) else {
        return differ(place, show(wanted), show(got));
    };
    if wanted_items.len() != found.len() {
        return differ(place, format!("in any order: {}", ctx.expand_value(wanted)), show(got));
    }
    let mut rest: Vec<&Value> = found.iter().collect();
    for item in wanted_items {
        match rest.iter().position(|a| check(ctx, item, a, "").is_ok()) {
            Some(at) => drop(rest.remove(at)),
            None if rest.len() == 1 => check(ctx, item, rest[0], &format!("{place}[any order]"))?,
            None => {
                let left = Value::Array(rest.into_iter().cloned().collect());
                return differ(place, format!("in any order: {}", ctx.expand_value(item)), show(&left));
            }
        }
    }
    Ok(())
}

/// Members of a list, or parts of a text, that must (`present`) or must not be there.
fn check_members(ctx: &Context, present: bool, wanted: &Value, got: &Value, place: &str) -> Verdict {
    let word = if present { "with" } else { "without" };
    match got {
        Value::String(text) => texts(wanted).try_for_each(|part| {
            let part = ctx.expand(part);
            if text.contains(&part) == present { Ok(()) } else { differ(place, format!("text {word} {part:?}"), text) }
        }),
        Value::Array(found) => items(wanted).try_for_each(|item| {
            if found.iter().any(|a| check(ctx, item, a, "").is_ok()) == present {
                return Ok(());
            }
            differ(place, format!("list {word} {}", ctx.expand_value(item)), show(got))
        }),
        _ => differ(place, show(wanted), show(got)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::*;
    use crate::context::Target;

    fn context() -> Context {
        let target = Target {
            base_url: "http://h:1".into(),
            host_port: "h:1".into(),
            data_dir: "/d".into(),
            ctl: "ctl".into(),
            members: None,
            answers: true,
        };
        let vars = HashMap::from([("n".to_owned(), "7".to_owned())]);
        Context { target, prefix: "cKx".into(), base: 100, vars, round: None, tmp: "/t".into() }
    }

    fn agrees(expected: Value, got: Value) -> bool {
        check(&context(), &expected, &got, "").is_ok()
    }

    #[test]
    fn plain_values_compare_exactly() {
        assert!(agrees(json!({"a": [1, "{P}/x"]}), json!({"a": [1, "cKx/x"]})));
        assert!(!agrees(json!({"a": 1}), json!({"a": 1, "b": 2})));
        assert!(!agrees(json!({"a": 1, "b": 2}), json!({"a": 1})));
        assert!(!agrees(json!(1), json!(true)));
        assert!(!agrees(json!([1]), json!([1, 2])));
    }

    #[test]
    fn placeholders_accept_and_refuse() {
        for (expected, yes, no) in [
            (json!({"$any": "uint"}), json!("12"), json!("-1")),
            (json!({"$any": "time"}), json!("2020-01-02T03:04:05.6Z"), json!("2020-01-02")),
            (json!({"$any": "hex"}), json!("cdf818194e3a8c32"), json!("CDF8")),
            (json!({"$idx": 2}), json!(102), json!(101)),
            (json!({"$idx": 2}), json!("102"), json!("x")),
            (json!({"$ttl": 5}), json!(4), json!(3)),
            (json!({"$range": [1, 3]}), json!(3), json!(4)),
            (json!({"$plus": ["n", 1]}), json!(8), json!(9)),
            (json!({"$atleast": ["n", 1]}), json!(9), json!(7)),
            (json!({"$repeat": ["ab", 2]}), json!("abab"), json!("ab")),
            (json!({"$re": "^a.c"}), json!("a\nc"), json!("bc")),
            (json!({"$set": [1, 2]}), json!([2, 1]), json!([2, 2])),
            (json!({"$contains": [1]}), json!([2, 1]), json!([2])),
            (json!({"$contains": ["{P}"]}), json!("x cKx"), json!("x")),
            (json!({"$lacks": [1]}), json!([2]), json!([1])),
            (json!({"$each": {"$any": "int"}, "$min": 1}), json!([1]), json!([])),
            (json!({"$has": {"a": 1}}), json!({"a": 1, "b": 2}), json!({"b": 2})),
            (json!({"$lines": ["b", "a"]}), json!("a\nb\n"), json!("a\n")),
            (json!({"$oneof": [1, 2]}), json!(2), json!(3)),
            (json!({"$all": [{"$any": "int"}, {"$range": [1, 2]}]}), json!(2), json!(3)),
            (json!("i {I+1} {Z} {RE:[0-9]+}."), json!("i 101 00000000000000000100 55."), json!("i 101 0100 x.")),
        ] {
            assert!(agrees(expected.clone(), yes.clone()), "{expected} must accept {yes}");
            assert!(!agrees(expected.clone(), no.clone()), "{expected} must refuse {no}");
        }
        assert!(!agrees(json!({"$nonsense": 1}), json!(1)));
    }
}
