//! Replies of Redis as they stand in a buffer: where the last of them ends, and what a read of streams
//! brought. Nothing is copied; whoever wants a value takes it.
//!
//! Only the second version of the protocol is spoken here, in which there are five kinds.

/// The largest value that Redis takes from anybody.
const BULK_MAX: usize = 512 * 1024 * 1024;

/// Longer than any line is that Redis sends: errors are cut, and all else is numbers.
const LINE_MAX: usize = 64 * 1024;

/// How many elements may be still to come: no reply to a read of 64 tasks has as many, and their
/// number must not overflow.
const ELEMENTS_MAX: usize = 1 << 24;

/// As many digits as any length has here.
const LENGTH_DIGITS: usize = 9;

/// What came is no reply, and nobody can tell where the next one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("redis answered in no protocol that is known")]
pub(crate) struct Garbled;

/// The next element of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Simple,
    Error,
    Integer,
    Nil,
    Bulk(&'a [u8]),
    /// So many elements follow.
    Array(usize),
}

/// The element that `bytes` begin with, and how long it is; `None` where its end has not come yet.
fn token(bytes: &[u8]) -> Result<Option<(Token<'_>, usize)>, Garbled> {
    let simple = match bytes.first() {
        Some(b'$') => return bulk(bytes),
        Some(b'*') => {
            return Ok(length(bytes, ELEMENTS_MAX)?.map(|(length, after)| match length {
                Some(elements) => (Token::Array(elements), after),
                None => (Token::Nil, after),
            }));
        }
        Some(b'+') => Token::Simple,
        Some(b'-') => Token::Error,
        Some(b':') => Token::Integer,
        Some(_) => return Err(Garbled),
        None => return Ok(None),
    };
    match bytes.iter().take(LINE_MAX).position(|byte| *byte == b'\n') {
        Some(end) if bytes[end - 1] == b'\r' => Ok(Some((simple, end + 1))),
        None if bytes.len() < LINE_MAX => Ok(None),
        _ => Err(Garbled),
    }
}

fn bulk(bytes: &[u8]) -> Result<Option<(Token<'_>, usize)>, Garbled> {
    let Some((length, after)) = length(bytes, BULK_MAX)? else { return Ok(None) };
    let Some(length) = length else { return Ok(Some((Token::Nil, after))) };
    let Some(bulk) = bytes.get(after..after + length + 2) else { return Ok(None) };
    let bulk = bulk.strip_suffix(b"\r\n").ok_or(Garbled)?;
    Ok(Some((Token::Bulk(bulk), after + length + 2)))
}

/// The number in the line that `bytes` begin with, and where that ends; -1 stands for nothing.
fn length(bytes: &[u8], most: usize) -> Result<Option<(Option<usize>, usize)>, Garbled> {
    let mut length = 0;
    for (at, byte) in bytes.iter().enumerate().skip(1) {
        match byte {
            b'0'..=b'9' => {
                length = length * 10 + usize::from(byte - b'0');
                if length > most {
                    return Err(Garbled);
                }
            }
            b'\r' if at > 1 => {
                return match bytes.get(at + 1) {
                    Some(b'\n') => Ok(Some((Some(length), at + 2))),
                    Some(_) => Err(Garbled),
                    None => Ok(None),
                };
            }
            b'-' if at == 1 => return nothing(bytes),
            _ => return Err(Garbled),
        }
        // Zeros without end.
        if at > LENGTH_DIGITS {
            return Err(Garbled);
        }
    }
    Ok(None)
}

fn nothing(bytes: &[u8]) -> Result<Option<(Option<usize>, usize)>, Garbled> {
    const NOTHING: &[u8] = b"-1\r\n";
    if bytes[1..].starts_with(NOTHING) {
        Ok(Some((None, 1 + NOTHING.len())))
    } else if NOTHING.starts_with(&bytes[1..]) {
        Ok(None)
    } else {
        Err(Garbled)
    }
}

/// Goes over replies while they come, and looks at each element once.
#[derive(Debug)]
pub(crate) struct Scan {
    at: usize,
    /// How many elements of the reply are still to come.
    left: usize,
    replies: usize,
    ends: Vec<usize>,
}

impl Scan {
    /// For so many replies, one after the other.
    pub fn of(replies: usize) -> Self {
        Self { at: 0, left: 1, replies, ends: Vec::with_capacity(replies) }
    }

    /// Goes on in what has come since the beginning; whether all replies are there.
    pub fn go_on(&mut self, bytes: &[u8]) -> Result<bool, Garbled> {
        while self.ends.len() < self.replies {
            let Some((token, length)) = token(&bytes[self.at..])? else { return Ok(false) };
            self.at += length;
            self.left -= 1;
            if let Token::Array(elements) = token {
                self.left += elements;
                if self.left > ELEMENTS_MAX {
                    return Err(Garbled);
                }
            }
            if self.left == 0 {
                self.ends.push(self.at);
                self.left = 1;
            }
        }
        // Nobody has asked for more than these.
        if self.at == bytes.len() { Ok(true) } else { Err(Garbled) }
    }

    /// Where each reply ends.
    pub fn ends(self) -> Vec<usize> {
        self.ends
    }
}

/// Names and values of an entry, in their order.
pub(crate) type Fields<'a> = [(&'a [u8], &'a [u8])];

/// Whether a reply is an error of the server.
pub(crate) fn is_error(reply: &[u8]) -> bool {
    reply.first() == Some(&b'-')
}

/// Gives each entry that a read of streams was answered with, with its stream, id and fields; fails
/// where it is no such answer.
pub(crate) fn entries<'a>(
    reply: &'a [u8],
    mut each: impl FnMut(&'a [u8], &'a [u8], &Fields<'a>) -> Option<()>,
) -> Option<()> {
    let mut rest = Rest(reply);
    let mut fields = Vec::new();
    for _ in 0..rest.array_or_nil()? {
        rest.array_of(2)?;
        let stream = rest.bulk()?;
        for _ in 0..rest.array()? {
            rest.array_of(2)?;
            let entry = rest.bulk()?;
            fields.clear();
            // Nil: it was deleted while it was pending.
            let flat = rest.array_or_nil()?;
            for _ in 0..flat / 2 {
                fields.push((rest.bulk()?, rest.bulk()?));
            }
            if flat % 2 == 1 {
                return None;
            }
            each(stream, entry, &fields)?;
        }
    }
    rest.0.is_empty().then_some(())
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn next(&mut self) -> Option<Token<'a>> {
        let (token, length) = token(self.0).ok()??;
        self.0 = &self.0[length..];
        Some(token)
    }

    fn bulk(&mut self) -> Option<&'a [u8]> {
        match self.next()? {
            Token::Bulk(bytes) => Some(bytes),
            _ => None,
        }
    }

    fn array(&mut self) -> Option<usize> {
        match self.next()? {
            Token::Array(length) => Some(length),
            _ => None,
        }
    }

    fn array_or_nil(&mut self) -> Option<usize> {
        match self.next()? {
            Token::Array(length) => Some(length),
            Token::Nil => Some(0),
            _ => None,
        }
    }

    fn array_of(&mut self, length: usize) -> Option<()> {
        (self.array()? == length).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: &[u8] = b"*2\r\n*2\r\n$1\r\na\r\n*2\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$2\r\nid\r\n$4\r\n\r\nx\n\r\n\
                          *2\r\n$3\r\n2-0\r\n*-1\r\n*2\r\n$1\r\nb\r\n*1\r\n*2\r\n$3\r\n3-0\r\n*0\r\n";

    fn told(reply: &[u8]) -> Option<Vec<String>> {
        let mut all = Vec::new();
        entries(reply, |stream, entry, fields| {
            all.push(format!("{} {} {fields:?}", stream.escape_ascii(), entry.escape_ascii()));
            Some(())
        })?;
        Some(all)
    }

    #[test]
    fn a_read_gives_each_entry_with_its_stream_and_fields() {
        let expected = ["a 1-0 [([105, 100], [13, 10, 120, 10])]", "a 2-0 []", "b 3-0 []"];
        assert_eq!(told(READ).unwrap(), expected);
        assert_eq!(told(b"*-1\r\n").unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_no_read_is_not_taken_for_one() {
        for odd in [
            b":1\r\n".as_slice(),
            b"+OK\r\n",
            b"*1\r\n$1\r\na\r\n",
            b"*1\r\n*2\r\n$1\r\na\r\n*1\r\n*1\r\n$3\r\n1-0\r\n",
            b"*1\r\n*2\r\n$1\r\na\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*1\r\n$1\r\nx\r\n",
            b"*1\r\n*2\r\n$1\r\na\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\nx\r\n:1\r\n",
            b"*-1\r\n*-1\r\n",
        ] {
            assert_eq!(told(odd), None, "{}", odd.escape_ascii());
        }
        assert!((0..READ.len()).all(|cut| told(&READ[..cut]).is_none()));
    }

    #[test]
    fn replies_are_whole_when_their_last_byte_has_come_and_not_before() {
        let replies = [READ, b"-NOGROUP no\r\n", b"$-1\r\n", b":7\r\n"].concat();
        let mut scan = Scan::of(4);
        for cut in 0..replies.len() {
            assert_eq!(scan.go_on(&replies[..cut]), Ok(false), "after {cut} bytes");
        }
        assert_eq!(scan.go_on(&replies), Ok(true));
        let ends = scan.ends();
        assert_eq!(&replies[ends[0]..ends[1]], b"-NOGROUP no\r\n");
        assert_eq!((ends[3], ends.len()), (replies.len(), 4));
        assert!(is_error(&replies[ends[0]..ends[1]]) && !is_error(READ));
    }

    #[test]
    fn garbled_replies_are_refused_where_they_break() {
        for garbled in [
            b"?\r\n".as_slice(),
            b"\r\n",
            b"%1\r\n",
            b":1\n",
            b"$2\r\nabc\r\n",
            b"$-2\r\n",
            b"$+1\r\n",
            b"$\r\n",
            b"*1a\r\n",
            b"*99999999\r\n",
            b"$999999999\r\n",
            b"$18446744073709551616\r\n",
            b":1\r\n:2\r\n",
            &[b'+'; LINE_MAX],
        ] {
            assert_eq!(Scan::of(1).go_on(garbled), Err(Garbled), "{}", garbled.escape_ascii());
        }
        // Arrays within arrays whose elements add up.
        assert_eq!(Scan::of(1).go_on(&b"*9999999\r\n".repeat(3)), Err(Garbled));
    }

    #[test]
    fn any_change_of_a_byte_is_refused_or_read_and_never_more_than_it() {
        for at in 0..READ.len() {
            for byte in [0, b'\r', b'\n', b'$', b'*', b'-', b'9', 0xff] {
                let mut changed = READ.to_vec();
                changed[at] = byte;
                // Whatever it is by now: no panic, and nothing beyond its end.
                let _ = told(&changed);
                let mut scan = Scan::of(1);
                if scan.go_on(&changed) == Ok(true) {
                    assert_eq!(scan.ends(), [READ.len()]);
                }
            }
        }
    }
}
