//! What `top` shows, and what each key does to it: no I/O, no clock.

use std::collections::{BTreeMap, VecDeque};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use umbel_broker::dead::LetterId;
use umbel_proto::QueueName;

use crate::terminal::watch::Look;

/// How many looks a sparkline remembers: wider than any column for it.
const REMEMBERED: usize = 60;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pane {
    #[default]
    Queues,
    Running,
    Failures,
    Workers,
}

impl Pane {
    pub const ALL: [Self; 4] = [Self::Queues, Self::Running, Self::Failures, Self::Workers];
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub look: Option<Look>,
    /// How many tasks each queue held at the last looks.
    pub depths: BTreeMap<QueueName, VecDeque<u64>>,
    pub pane: Pane,
    /// The selected row of each pane.
    pub selected: [usize; 4],
    /// What was opened, the innermost last.
    pub pages: Vec<Page>,
    /// Waits for a `y`.
    pub question: Option<(String, Command)>,
    pub message: String,
    pub is_over: bool,
}

/// Something that was opened, with one of its lines selected.
#[derive(Debug)]
pub(super) struct Page {
    pub title: String,
    pub lines: Vec<Line>,
    pub selected: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    /// The task that it is about.
    pub id: Option<String>,
    pub text: String,
}

impl Page {
    pub fn new(title: String, lines: Vec<Line>) -> Self {
        Self { title, lines, selected: 0 }
    }
}

/// What has to be asked of the broker.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Command {
    Pause(QueueName),
    Resume(QueueName),
    Cancel(String),
    Redrive(QueueName, LetterId),
    RedriveAll(QueueName),
    DeleteLetter(QueueName, LetterId),
    Purge(QueueName),
    OpenQueue(QueueName),
    OpenTask(String),
    OpenLetter(QueueName, LetterId),
}

impl State {
    /// Takes over what was seen.
    pub fn seen(&mut self, look: Look) {
        for queue in &look.queues {
            let depths = self.depths.entry(queue.name.clone()).or_default();
            depths.push_back(queue.queued + queue.running);
            if depths.len() > REMEMBERED {
                depths.pop_front();
            }
        }
        self.look = Some(look);
        for pane in Pane::ALL {
            let last = self.rows(pane).saturating_sub(1);
            let selected = &mut self.selected[pane as usize];
            *selected = (*selected).min(last);
        }
    }

    pub fn open(&mut self, page: Page) {
        self.pages.push(page);
    }

    /// What a key does; what it asks of the broker.
    pub fn press(&mut self, key: KeyEvent) -> Option<Command> {
        let control_c =
            key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        if control_c {
            self.is_over = true;
            return None;
        }
        if let Some((_, command)) = self.question.take() {
            let yes = matches!(key.code, KeyCode::Char('y'));
            self.message = if yes { String::new() } else { "nothing was done".to_owned() };
            return yes.then_some(command);
        }
        self.message.clear();
        match key.code {
            KeyCode::Char('q') if self.pages.is_empty() => self.is_over = true,
            KeyCode::Char('q') | KeyCode::Esc | KeyCode::Left => drop(self.pages.pop()),
            KeyCode::Tab => self.turn(1),
            KeyCode::BackTab => self.turn(Pane::ALL.len() - 1),
            KeyCode::Char(n @ '1'..='4') => self.turn_to(Pane::ALL[n as usize - '1' as usize]),
            KeyCode::Down | KeyCode::Char('j') => self.move_by(1),
            KeyCode::Up | KeyCode::Char('k') => self.move_by(-1),
            KeyCode::Enter | KeyCode::Right => return self.enter(),
            KeyCode::Char('p') => return self.pause_or_resume(),
            KeyCode::Char('c') => return self.task().map(Command::Cancel),
            KeyCode::Char('r') => {
                let (queue, letter) = self.letter()?;
                return Some(Command::Redrive(queue, letter));
            }
            KeyCode::Char('R') => {
                let queue = self.queue()?;
                let all = format!("run all dead letters of queue {queue} again");
                self.question = Some((all, Command::RedriveAll(queue)));
            }
            KeyCode::Char('D') => {
                let (queue, letter) = self.letter()?;
                let delete = format!("delete dead letter {letter} of queue {queue}");
                self.question = Some((delete, Command::DeleteLetter(queue, letter)));
            }
            KeyCode::Char('X') => {
                let queue = self.queue()?;
                let purge = format!("throw away all that is ready in queue {queue}");
                self.question = Some((purge, Command::Purge(queue)));
            }
            _ => {}
        }
        None
    }

    fn turn(&mut self, by: usize) {
        self.turn_to(Pane::ALL[(self.pane as usize + by) % Pane::ALL.len()]);
    }

    fn turn_to(&mut self, pane: Pane) {
        self.pages.clear();
        self.pane = pane;
    }

    fn move_by(&mut self, by: isize) {
        let rows = self.pages.last().map_or_else(|| self.rows(self.pane), |page| page.lines.len());
        let selected = match self.pages.last_mut() {
            Some(page) => &mut page.selected,
            None => &mut self.selected[self.pane as usize],
        };
        *selected = selected.saturating_add_signed(by).min(rows.saturating_sub(1));
    }

    fn enter(&self) -> Option<Command> {
        if let Some(page) = self.pages.last() {
            // Of a task there is no more to be opened.
            let id = page.lines.get(page.selected)?.id.clone()?;
            return (page.title != format!("task {id}")).then_some(Command::OpenTask(id));
        }
        match self.pane {
            Pane::Queues => self.queue().map(Command::OpenQueue),
            Pane::Running => self.task().map(Command::OpenTask),
            Pane::Failures => {
                let (queue, letter) = self.letter()?;
                Some(Command::OpenLetter(queue, letter))
            }
            Pane::Workers => {
                let worker = self.look.as_ref()?.workers.get(self.row())?;
                worker.info.running.first().map(|task| Command::OpenTask(task.id.clone()))
            }
        }
    }

    fn pause_or_resume(&self) -> Option<Command> {
        let queue = self.queue()?;
        let status = self.look.as_ref()?.queues.iter().find(|status| status.name == queue)?;
        Some(match status.paused {
            None => Command::Pause(queue),
            Some(_) => Command::Resume(queue),
        })
    }

    /// The queue that is meant: only where queues are in focus, so that a slip elsewhere harms none.
    fn queue(&self) -> Option<QueueName> {
        if self.pane != Pane::Queues {
            return None;
        }
        Some(self.look.as_ref()?.queues.get(self.row())?.name.clone())
    }

    fn task(&self) -> Option<String> {
        if let Some(page) = self.pages.last() {
            return page.lines.get(page.selected)?.id.clone();
        }
        if self.pane != Pane::Running {
            return None;
        }
        let running = self.look.as_ref()?.running();
        running.get(self.row()).map(|(_, task)| task.id.clone())
    }

    fn letter(&self) -> Option<(QueueName, LetterId)> {
        if self.pane != Pane::Failures {
            return None;
        }
        let failure = self.look.as_ref()?.failures.get(self.row())?;
        Some((failure.queue.clone(), failure.letter.letter))
    }

    fn row(&self) -> usize {
        self.selected[self.pane as usize]
    }

    fn rows(&self, pane: Pane) -> usize {
        self.look.as_ref().map_or(0, |look| match pane {
            Pane::Queues => look.queues.len(),
            Pane::Running => look.running().len(),
            Pane::Failures => look.failures.len(),
            Pane::Workers => look.workers.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::watch::tests::look;

    fn state() -> State {
        let mut state = State::default();
        state.seen(look());
        state
    }

    fn press(state: &mut State, keys: &str) -> Option<Command> {
        keys.chars().fold(None, |_, c| {
            let code = match c {
                '\n' => KeyCode::Enter,
                '\t' => KeyCode::Tab,
                '\u{1b}' => KeyCode::Esc,
                c => KeyCode::Char(c),
            };
            state.press(KeyEvent::new(code, KeyModifiers::NONE))
        })
    }

    fn queue(name: &str) -> QueueName {
        name.parse().unwrap()
    }

    #[test]
    fn small_letters_act_at_once_on_what_is_selected() {
        let mut state = state();
        assert_eq!(press(&mut state, "p"), Some(Command::Pause(queue("default"))));
        assert_eq!(press(&mut state, "jp"), Some(Command::Pause(queue("upkeep"))));
        assert_eq!(press(&mut state, "jjj\n"), Some(Command::OpenQueue(queue("upkeep"))));
        let id = look().workers[0].info.running[0].id.clone();
        assert_eq!(press(&mut state, "2c"), Some(Command::Cancel(id.clone())));
        assert_eq!(press(&mut state, "\n"), Some(Command::OpenTask(id)));
        let letter = look().failures[0].letter.letter;
        assert_eq!(press(&mut state, "\tr"), Some(Command::Redrive(queue("default"), letter)));
    }

    #[test]
    fn capitals_ask_and_only_a_y_goes_on() {
        let mut state = state();
        assert_eq!(press(&mut state, "X"), None);
        assert!(state.question.as_ref().unwrap().0.contains("queue default"));
        assert_eq!(press(&mut state, "n"), None);
        assert_eq!((state.question.is_none(), &*state.message), (true, "nothing was done"));
        assert_eq!(press(&mut state, "Xy"), Some(Command::Purge(queue("default"))));
        assert_eq!(press(&mut state, "Ry"), Some(Command::RedriveAll(queue("default"))));
        let letter = look().failures[0].letter.letter;
        assert_eq!(press(&mut state, "3Dy"), Some(Command::DeleteLetter(queue("default"), letter)));
    }

    #[test]
    fn what_is_not_in_focus_is_not_acted_on() {
        let mut state = state();
        for keys in ["cccc", "rrr", "D", "2p", "2X", "4p", "4r", "3p", "3X"] {
            assert_eq!(press(&mut state, keys), None, "{keys}");
            assert!(state.question.is_none(), "{keys}");
            state.turn_to(Pane::Queues);
        }
    }

    #[test]
    fn what_was_opened_is_left_before_all_is() {
        let mut state = state();
        let lines = vec![Line { id: Some("a".to_owned()), text: String::new() }];
        state.open(Page::new("queue default".to_owned(), lines));
        assert_eq!(press(&mut state, "\n"), Some(Command::OpenTask("a".to_owned())));
        assert_eq!(press(&mut state, "c"), Some(Command::Cancel("a".to_owned())));
        press(&mut state, "\u{1b}");
        assert!(state.pages.is_empty() && !state.is_over);
        press(&mut state, "q");
        assert!(state.is_over);
    }

    #[test]
    fn a_selection_stays_within_what_is_there() {
        let mut state = state();
        press(&mut state, "jjjj");
        assert_eq!(state.selected[0], 1);
        let mut fewer = look();
        fewer.queues.pop();
        state.seen(fewer);
        assert_eq!(state.selected[0], 0);
        assert_eq!(state.depths[&queue("default")], [18, 18]);
    }
}
