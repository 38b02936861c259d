//! The view on a terminal.
//!
//! Owns: the layout. Touches: a frame of the TUI crate. Always: any size of terminal is drawn, if need be in part.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph, Row, Table, TableState};

use super::view::{HEADER, View, percent};

/// Narrowest useful widths of the columns under [`HEADER`].
const WIDTHS: [u16; HEADER.len()] = [10, 16, 6, 10, 10, 8, 7, 9, 9, 8, 9, 9];
/// Lines of the part about one member.
const DETAIL_LINES: u16 = 5;
const KEYS: &str = "q leaves, up and down choose a member";

/// Draws everything. `selected` is a place among the members; `trouble` is why the view does not move.
pub fn draw(frame: &mut Frame<'_>, view: &View, selected: usize, trouble: Option<&str>) {
    let lines = u16::try_from(view.members.len()).unwrap_or(u16::MAX);
    let [head, members, detail, hot, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(lines.saturating_add(3)),
        Constraint::Length(DETAIL_LINES),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(view.headline()).style(bold()), head);

    let rows = view.members.iter().map(|row| {
        let style = match (&row.error, row.no_space, row.role) {
            (Some(_), ..) | (_, Some(true), _) => Style::new().fg(Color::Red),
            (_, _, Some("leader")) => Style::new().fg(Color::Green),
            _ => Style::new(),
        };
        Row::new(row.cells()).style(style)
    });
    let table = Table::new(rows, WIDTHS.map(Constraint::Min))
        .header(Row::new(HEADER).style(bold()))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::bordered().title("members"));
    let mut state = TableState::default().with_selected(Some(selected));
    frame.render_stateful_widget(table, members, &mut state);

    let told = view.members.get(selected).map_or_else(Vec::new, |row| {
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
        vec![
            Line::from(format!("{} {} {}", row.label(), row.id, row.client_urls.join(","))),
            Line::from(format!(
                "{} connections, {} writes wait, applied {}, quota {} bytes",
                number(row.connections),
                number(row.writes_pending),
                number(row.applied_index),
                number(row.quota_bytes)
            )),
            Line::from(row.error.clone().unwrap_or_default()),
        ]
    });
    frame.render_widget(Paragraph::new(told).block(Block::bordered().title("member")), detail);

    let prefixes = view.hot.iter().map(|(prefix, share)| Line::from(format!("{:>8}  {prefix}", percent(*share))));
    let title = Block::bordered().title("hottest prefixes, share of requests");
    frame.render_widget(Paragraph::new(prefixes.collect::<Vec<_>>()).block(title), hot);

    let foot_line = trouble.map_or_else(|| Line::from(KEYS), |why| Line::styled(why.to_owned(), Color::Red));
    frame.render_widget(foot_line, foot);
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::view::tests::sample;
    use super::*;

    fn drawn(width: u16, height: u16, selected: usize, trouble: Option<&str>) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        let view = sample();
        terminal.draw(|frame| draw(frame, &view, selected, trouble)).expect("drawn");
        let buffer = terminal.backend().buffer();
        (0..height).map(|y| (0..width).map(|x| buffer[(x, y)].symbol()).collect()).collect()
    }

    #[test]
    fn members_prefixes_and_keys_are_on_the_screen() {
        let lines = drawn(140, 24, 1, None);
        assert!(lines[0].starts_with("leader m-a | 1 of 2 members reached | raft index 300"), "{lines:#?}");
        let with = |text: &str| lines.iter().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{lines:#?}"));
        for title in HEADER {
            assert!(lines[2].contains(title), "{title}: {lines:#?}");
        }
        let leader = with("m-a  ");
        assert!(leader.contains("leader") && leader.contains("150 us") && leader.contains("100"), "{leader}");
        assert!(lines.iter().any(|line| line.contains("m-b") && line.contains("unreachable")), "{lines:#?}");
        with("connection refused");
        assert!(with("/jobs").contains("75.0 %"));
        assert!(lines[23].starts_with(KEYS));
    }

    #[test]
    fn trouble_takes_the_place_of_the_keys_and_small_terminals_are_survived() {
        assert!(drawn(80, 24, 0, Some("nobody answers"))[23].starts_with("nobody answers"));
        for (width, height) in [(1, 1), (20, 3), (80, 6), (300, 100)] {
            assert_eq!(drawn(width, height, 7, None).len(), usize::from(height));
        }
    }
}
