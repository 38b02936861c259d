//! Numbers into Markdown.
//!
//! Owns: medians, ratios, verdicts, table layout. Touches: nothing. Always: a figure that is missing shows as `-`.

pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(header: &[&str]) -> Table {
        let header: Vec<String> = header.iter().map(|h| (*h).to_owned()).collect();
        let line = header.iter().map(|_| "---".to_owned()).collect();
        Table { rows: vec![header, line] }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.rows[0].len(), "a row has a cell per column");
        self.rows.push(cells);
    }

    pub fn markdown(&self) -> String {
        self.rows.iter().map(|row| format!("| {} |\n", row.join(" | "))).collect()
    }
}

/// The middle one, or the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

pub fn ratio(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.zip(b).map(|(a, b)| a / b)
}

pub fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |v| format!("{v:.digits$}"))
}

pub fn times(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |v| format!("{v:.2}×"))
}

/// What a figure shall reach.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    None,
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
    Within(f64, f64),
}

impl Goal {
    /// The goal, and whether `value` meets it.
    pub fn verdict(self, value: Option<f64>) -> String {
        let (text, met) = match self {
            Goal::None => return String::new(),
            Goal::AtLeast(goal) => (format!("≥{goal}"), value.map(|v| v >= goal)),
            Goal::AtMost(goal) => (format!("≤{goal}"), value.map(|v| v <= goal)),
            Goal::Below(goal) => (format!("<{goal}"), value.map(|v| v < goal)),
            Goal::Within(low, high) => (format!("{low}–{high}"), value.map(|v| (low..=high).contains(&v))),
        };
        match met {
            Some(true) => format!("{text} met"),
            Some(false) => format!("{text} **missed**"),
            None => text,
        }
    }
}
