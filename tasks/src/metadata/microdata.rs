//! The basics of microdata: the types of the items of a page, and of a few kinds what they say.
//!
//! An item reaches from its tag to its end tag. Where that is missing it ends with the one around
//! it: end tags are matched by number, not by counting.

use std::collections::BTreeSet;

use super::{
    text::content,
    things::{Draft, Thing, keep},
};

/// Items within items, and elements with a property: a dozen in honest pages.
const MAX_OPEN: usize = 32;
const MAX_TYPES: usize = 32;
const MAX_TYPE_BYTES: usize = 128;
/// A description in the text may be long; a property keeps 512 bytes of it.
const MAX_RAW_BYTES: usize = 4096;

/// What the page has said so far in microdata.
#[derive(Debug, Default)]
pub(super) struct Microdata {
    pub types: BTreeSet<String>,
    pub things: Vec<Thing>,
    open: Vec<Open>,
    next: u32,
}

/// An element that is not closed yet.
#[derive(Debug)]
struct Open {
    number: u32,
    /// The property that it is of the item around it.
    property: Option<String>,
    what: What,
}

#[derive(Debug)]
enum What {
    Item(Draft),
    /// Its value is its text.
    Text(String),
}

/// The attributes of an element that matter.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    /// Whether it is an item.
    pub item: bool,
    pub types: Option<String>,
    pub property: Option<String>,
    /// The value that an attribute gives: `content`, `href`, `src` or `datetime`.
    pub value: Option<String>,
}

impl Microdata {
    /// Takes a start tag; its number, if its end tag matters, goes to [`close`](Self::close).
    pub fn open(&mut self, attributes: Attributes) -> Option<u32> {
        let Attributes { item, types, property, value } = attributes;
        let what = if item {
            let mut draft = Draft::default();
            for name in types.unwrap_or_default().split_ascii_whitespace() {
                draft.is_a(name);
                if self.types.len() < MAX_TYPES && name.len() <= MAX_TYPE_BYTES {
                    self.types.extend(super::text::tidy(name, MAX_TYPE_BYTES));
                }
            }
            What::Item(draft)
        } else if let Some(value) = value {
            if let Some(property) = &property {
                self.says(property, &value);
            }
            return None;
        } else {
            property.as_ref()?;
            What::Text(String::new())
        };
        if self.open.len() >= MAX_OPEN {
            return None;
        }
        self.next = self.next.wrapping_add(1);
        self.open.push(Open { number: self.next, property, what });
        Some(self.next)
    }

    /// Takes a piece of text.
    pub fn text(&mut self, text: &str) {
        for open in &mut self.open {
            if let What::Text(told) = &mut open.what {
                let room = MAX_RAW_BYTES - told.len();
                told.push_str(&text[..text.floor_char_boundary(room)]);
            }
        }
    }

    /// Takes the end tag of an element, and all that is still open within it.
    pub fn close(&mut self, number: u32) {
        if let Some(place) = self.open.iter().position(|open| open.number == number) {
            while self.open.len() > place {
                self.close_last();
            }
        }
    }

    /// Closes all that never was.
    pub fn end(&mut self) {
        while !self.open.is_empty() {
            self.close_last();
        }
    }

    fn close_last(&mut self) {
        let Some(Open { property, what, .. }) = self.open.pop() else { return };
        match (what, property) {
            (What::Text(text), Some(property)) => self.says(&property, &content(&text)),
            (What::Text(_), None) => {}
            (What::Item(draft), property) => {
                if let Some(thing) = draft.finish() {
                    keep(&mut self.things, thing);
                }
                if let (Some(names), Some(outer)) = (property, self.item()) {
                    names.split_ascii_whitespace().for_each(|name| outer.has(name, &draft));
                }
            }
        }
    }

    fn says(&mut self, properties: &str, value: &str) {
        if let Some(item) = self.item() {
            properties.split_ascii_whitespace().for_each(|name| item.says(name, value));
        }
    }

    /// The innermost item that is open.
    fn item(&mut self) -> Option<&mut Draft> {
        self.open.iter_mut().rev().find_map(|open| match &mut open.what {
            What::Item(draft) => Some(draft),
            What::Text(_) => None,
        })
    }
}
