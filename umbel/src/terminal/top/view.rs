//! Draws what `top` knows; decides nothing.

use chrono::{DateTime, Utc};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::Line as Text,
    widgets::{Block, Cell, Paragraph, Row, Table, TableState},
};

use super::state::{Page, Pane, State};
use crate::terminal::{
    inspect::is_silent,
    table::{cut, plain, relative, span},
    watch::Look,
};

/// The bars of a sparkline, from nothing to the most.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// How wide a sparkline is.
const SPARK: usize = 24;

const KEYS: &str = "1-4/tab pane  j/k row  enter open  p pause/resume  c cancel  r redrive  R redrive all  D delete letter  X purge  q quit";

pub(super) fn draw(frame: &mut Frame, state: &State, now: DateTime<Utc>) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(Paragraph::new(headline(state)), head);
    match (state.pages.last(), &state.look) {
        (Some(page), _) => opened(frame, body, page),
        (None, Some(look)) => panes(frame, body, state, look, now),
        (None, None) => frame.render_widget(Paragraph::new("looking …"), body),
    }
    frame.render_widget(Paragraph::new(footline(state)), foot);
}

fn headline(state: &State) -> Text<'_> {
    let Some(look) = &state.look else { return Text::from("umbel top") };
    let queued: u64 = look.queues.iter().map(|queue| queue.queued).sum();
    let running: u64 = look.queues.iter().map(|queue| queue.running).sum();
    let dead: u64 = look.queues.iter().map(|queue| queue.dead).sum();
    let workers = look.workers.len();
    let at = look.at.format("%H:%M:%S");
    Text::from(format!(
        "umbel top  {at} UTC   {queued} queued  {running} running  {dead} dead   {workers} workers"
    ))
    .bold()
}

fn footline(state: &State) -> Text<'_> {
    match &state.question {
        Some((question, _)) => {
            Text::from(format!("{question}? This cannot be undone. y/n")).fg(Color::Red).bold()
        }
        None if state.message.is_empty() => Text::from(KEYS).dim(),
        None => Text::from(plain(&state.message)).fg(Color::Yellow),
    }
}

fn panes(frame: &mut Frame, area: Rect, state: &State, look: &Look, now: DateTime<Utc>) {
    let rows = |count: usize| u16::try_from(count).unwrap_or(u16::MAX).saturating_add(3);
    let areas: [Rect; 4] = Layout::vertical([
        // What there is of queues and workers is known and little; the rest shares what is left.
        Constraint::Length(rows(look.queues.len()).min(area.height / 3)),
        Constraint::Min(4),
        Constraint::Min(4),
        Constraint::Length(rows(look.workers.len()).min(area.height / 4)),
    ])
    .areas(area);
    for (pane, area) in Pane::ALL.into_iter().zip(areas) {
        let (title, head, rows, widths) = match pane {
            Pane::Queues => queues(state, look, now),
            Pane::Running => running(look, now),
            Pane::Failures => failures(look, now),
            Pane::Workers => workers(look, now),
        };
        let focused = pane == state.pane;
        let number = pane as usize + 1;
        let border = if focused { Style::new().fg(Color::Cyan) } else { Style::new().dim() };
        let block = Block::bordered().title(format!(" {number} {title} ")).border_style(border);
        let head = Row::new(head).style(Style::new().add_modifier(Modifier::DIM));
        let marked = Style::new().add_modifier(Modifier::REVERSED);
        let table = Table::new(rows, widths).header(head).block(block).row_highlight_style(marked);
        let selected = focused.then_some(state.selected[pane as usize]);
        let mut place = TableState::default().with_selected(selected);
        frame.render_stateful_widget(table, area, &mut place);
    }
}

type Content = (&'static str, Vec<&'static str>, Vec<Row<'static>>, Vec<Constraint>);

fn queues(state: &State, look: &Look, now: DateTime<Utc>) -> Content {
    let rows = look.queues.iter().map(|queue| {
        let depths = state.depths.get(&queue.name).into_iter().flatten().copied();
        let paused = queue.paused.as_ref().map_or(String::new(), |pause| {
            let since = relative(Some(pause.since), now);
            format!("paused by {}, {since}: {}", pause.by, pause.why)
        });
        let row = Row::new([
            Cell::from(queue.name.to_string()),
            number(queue.queued),
            number(queue.running),
            number(queue.delayed),
            number(queue.parked),
            number(queue.dead),
            Cell::from(spark(&depths.collect::<Vec<_>>())).fg(Color::Cyan),
            Cell::from(plain(&paused)),
        ]);
        if queue.paused.is_some() { row.fg(Color::Yellow) } else { row }
    });
    let count = Constraint::Length(8);
    (
        "queues",
        vec!["queue", "  queued", " running", " delayed", "  parked", "    dead", "depth", ""],
        rows.collect(),
        vec![
            Constraint::Length(16),
            count,
            count,
            count,
            count,
            count,
            Constraint::Length(SPARK as u16),
            Constraint::Min(10),
        ],
    )
}

fn running(look: &Look, now: DateTime<Utc>) -> Content {
    let rows = look.running().into_iter().map(|(worker, task)| {
        Row::new([
            span(now - task.since),
            plain(&task.task),
            task.attempt.to_string(),
            plain(&task.id),
            plain(&worker.id),
        ])
    });
    (
        "running",
        vec!["for", "task", "attempt", "id", "worker"],
        rows.collect(),
        vec![
            Constraint::Length(8),
            Constraint::Length(20),
            Constraint::Length(7),
            Constraint::Length(48),
            Constraint::Min(10),
        ],
    )
}

fn failures(look: &Look, now: DateTime<Utc>) -> Content {
    let rows = look.failures.iter().map(|failure| {
        let letter = &failure.letter;
        Row::new([
            relative(letter.died, now),
            failure.queue.to_string(),
            plain(letter.task.as_deref().unwrap_or_default()),
            plain(&letter.why),
            cut(&plain(&letter.error), 200),
        ])
    });
    (
        "failures",
        vec!["died", "queue", "task", "why", "error"],
        rows.collect(),
        vec![
            Constraint::Length(12),
            Constraint::Length(16),
            Constraint::Length(20),
            Constraint::Length(10),
            Constraint::Min(10),
        ],
    )
}

fn workers(look: &Look, now: DateTime<Utc>) -> Content {
    let rows = look.workers.iter().map(|worker| {
        let info = &worker.info;
        let row = Row::new([
            plain(&worker.id),
            format!("{} of {}", info.running_count, info.concurrency),
            relative(info.beat, now),
            plain(&info.queues.join(",")),
        ]);
        if is_silent(worker, now) { row.fg(Color::Red) } else { row }
    });
    (
        "workers",
        vec!["worker", "runs", "beat", "queues"],
        rows.collect(),
        vec![
            Constraint::Length(40),
            Constraint::Length(10),
            Constraint::Length(12),
            Constraint::Min(10),
        ],
    )
}

fn opened(frame: &mut Frame, area: Rect, page: &Page) {
    let rows = page.lines.iter().map(|line| {
        let id = line.id.as_ref().map_or(String::new(), |id| format!("{id}  "));
        Row::new([id + &line.text])
    });
    let block = Block::bordered().title(format!(" {} (esc goes back) ", page.title));
    let marked = Style::new().add_modifier(Modifier::REVERSED);
    let table = Table::new(rows, [Constraint::Min(10)]).block(block).row_highlight_style(marked);
    let mut place = TableState::default().with_selected(Some(page.selected));
    frame.render_stateful_widget(table, area, &mut place);
}

fn number(count: u64) -> Cell<'static> {
    Cell::from(format!("{count:>8}"))
}

/// The last values as bars of one line, the highest as the highest.
fn spark(values: &[u64]) -> String {
    let shown = &values[values.len().saturating_sub(SPARK)..];
    let most = shown.iter().copied().max().unwrap_or_default().max(1);
    let bar = |value: &u64| {
        // What is there at all is seen.
        let height = (value * (BARS.len() as u64 - 1)).div_ceil(most);
        BARS[height as usize]
    };
    shown.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::terminal::{top::state::Line, watch::tests::look};

    fn screen(state: &State) -> String {
        let mut terminal = Terminal::new(TestBackend::new(120, 30)).unwrap();
        let now = look().at;
        terminal.draw(|frame| draw(frame, state, now)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn everything_that_is_known_is_on_the_screen() {
        let mut state = State::default();
        assert!(screen(&state).contains("looking"));
        state.seen(look());
        let screen = screen(&state);
        for part in [
            "17 queued  2 running  1 dead   1 workers",
            "1 queues",
            "default",
            "upkeep",
            "42 s",
            "pages.scrape",
            "3 min ago",
            "no route to host",
            "1 of 4",
            "X purge",
        ] {
            assert!(screen.contains(part), "`{part}` is missing:\n{screen}");
        }
    }

    #[test]
    fn a_question_takes_the_place_of_the_keys_and_a_page_that_of_the_panes() {
        let mut state = State::default();
        state.seen(look());
        let queue: umbel_proto::QueueName = "default".parse().unwrap();
        state.question =
            Some(("throw it away".to_owned(), super::super::state::Command::Purge(queue)));
        let line = Line { id: Some("default-1".to_owned()), text: "probe 1 queued".to_owned() };
        state.open(Page::new("queue default".to_owned(), vec![line]));
        let screen = screen(&state);
        assert!(screen.contains("throw it away? This cannot be undone. y/n"), "{screen}");
        assert!(screen.contains("default-1  probe 1 queued") && !screen.contains("1 queues"));
    }

    #[test]
    fn a_sparkline_shows_what_is_there_and_the_highest_as_the_highest() {
        assert_eq!(spark(&[0, 1, 100, 50]), " ▁█▄");
        assert_eq!(spark(&[]), "");
        assert_eq!(spark(&[5; 100]).chars().count(), SPARK);
    }
}
