//! What a token may do: scopes, and how a token comes by them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

/// One thing that a token may do, of those that the API itself asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// `tasks:enqueue`
    Enqueue,
    /// `tasks:read`: tasks, their results, and how the queues stand.
    Read,
    /// `tasks:cancel`
    Cancel,
    /// `admin`: all of the others, everybody's tasks, and what is for operators.
    Admin,
}

/// What a token may do in all: of the API's own scopes, and of those that an application's routes
/// ask for (`sites:read`). Default: nothing.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Scopes {
    own: u8,
    of_application: BTreeSet<String>,
}

/// Which scopes a role of the identity provider stands for (JWT_ROLE_SCOPES). Default: no role
/// stands for any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoleScopes(BTreeMap<String, Scopes>);

/// A text that does not say which scopes are meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    #[error(
        "`{0}` is no scope; there are tasks:enqueue, tasks:read, tasks:cancel and admin, and those \
         of the application, which have a colon too"
    )]
    Unknown(String),
    #[error("`{0}` does not say which scopes a role has; write role=tasks:read tasks:enqueue")]
    NoRole(String),
    #[error("the role `{0}` is named twice")]
    Twice(String),
}

impl Scope {
    pub const ALL: [Self; 4] = [Self::Enqueue, Self::Read, Self::Cancel, Self::Admin];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enqueue => "tasks:enqueue",
            Self::Read => "tasks:read",
            Self::Cancel => "tasks:cancel",
            Self::Admin => "admin",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl Scopes {
    pub const NONE: Self = Self::own(0);
    /// The three of tasks.
    pub const TASKS: Self =
        Self::own(Scope::Enqueue.bit() | Scope::Read.bit() | Scope::Cancel.bit());
    pub const ADMIN: Self = Self::own(Scope::Admin.bit());

    const fn own(bits: u8) -> Self {
        Self { own: bits, of_application: BTreeSet::new() }
    }

    /// Whether the scope is held; `admin` holds all.
    pub const fn allows(&self, scope: Scope) -> bool {
        self.own & (scope.bit() | Scope::Admin.bit()) != 0
    }

    /// Whether a scope is held that an application asks for; `admin` holds all.
    pub fn allows_named(&self, scope: &str) -> bool {
        self.allows(Scope::Admin)
            || scope.parse().is_ok_and(|scope| self.allows(scope))
            || self.of_application.contains(scope)
    }

    /// Those that are not the API's own.
    pub(crate) fn of_application(&self) -> impl Iterator<Item = &str> {
        self.of_application.iter().map(String::as_str)
    }

    pub fn is_empty(&self) -> bool {
        self.own == 0 && self.of_application.is_empty()
    }

    pub fn with(mut self, other: Self) -> Self {
        self.own |= other.own;
        self.of_application.extend(other.of_application);
        self
    }

    /// What the words of a token grant here; those that are meant for other services grant nothing.
    pub(super) fn of_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let known = words.into_iter().filter_map(|word| Self::of_word(word).ok());
        known.fold(Self::NONE, Self::with)
    }

    fn of_word(word: &str) -> Result<Self, ScopeError> {
        match word.parse::<Scope>() {
            Ok(scope) => Ok(scope.into()),
            Err(_) if is_of_application(word) => {
                Ok(Self { of_application: BTreeSet::from([word.to_owned()]), ..Self::NONE })
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether an application may ask for a scope of this name: it has a colon, and what begins with
/// `tasks:` is the API's own, so that one that is misspelt is not taken for another's.
pub(crate) fn is_of_application(word: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
    word.split_once(':').is_some_and(|(of, what)| {
        of != "tasks"
            && [of, what].iter().all(|part| !part.is_empty() && part.chars().all(is_plain))
    })
}

impl RoleScopes {
    /// All that any role stands for.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Scopes> {
        self.0.values()
    }

    /// `None` where the role stands for nothing.
    pub(super) fn of(&self, role: &str) -> Option<Scopes> {
        self.0.get(role).cloned()
    }
}

impl From<Scope> for Scopes {
    fn from(scope: Scope) -> Self {
        Self::own(scope.bit())
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let known = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        known.ok_or_else(|| ScopeError::Unknown(text.to_owned()))
    }
}

/// Scopes with spaces between them; none is a text without words.
impl FromStr for Scopes {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        text.split_whitespace()
            .try_fold(Self::NONE, |scopes, word| Ok(scopes.with(Self::of_word(word)?)))
    }
}

/// `role=scope scope` with commas between them.
impl FromStr for RoleScopes {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let mut roles = BTreeMap::new();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (role, scopes) = entry
                .split_once('=')
                .map(|(role, scopes)| (role.trim(), scopes))
                .filter(|(role, _)| !role.is_empty())
                .ok_or_else(|| ScopeError::NoRole(entry.to_owned()))?;
            if roles.insert(role.to_owned(), scopes.parse()?).is_some() {
                return Err(ScopeError::Twice(role.to_owned()));
            }
        }
        Ok(Self(roles))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// As it is written in a token.
impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = Scope::ALL.into_iter().filter(|scope| self.own & scope.bit() != 0);
        let mut words: Vec<&str> = held.map(Scope::as_str).collect();
        words.extend(self.of_application());
        f.write_str(&words.join(" "))
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scopes({self})")
    }
}

/// As the setting is written.
impl fmt::Display for RoleScopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries: Vec<String> =
            self.0.iter().map(|(role, scopes)| format!("{role}={scopes}")).collect();
        f.write_str(&entries.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_grants_itself_and_admin_grants_all() {
        for held in Scope::ALL {
            for asked in Scope::ALL {
                let allowed = Scopes::from(held).allows(asked);
                assert_eq!(allowed, held == asked || held == Scope::Admin, "{held} {asked}");
            }
        }
        assert!(Scope::ALL.iter().all(|scope| !Scopes::NONE.allows(*scope)));
        assert!(!Scopes::TASKS.allows(Scope::Admin));
    }

    #[test]
    fn a_scope_of_an_application_grants_itself_alone() {
        let held: Scopes = "sites:read".parse().unwrap();
        assert!(held.allows_named("sites:read") && !held.allows_named("sites:write"));
        assert!(Scope::ALL.iter().all(|scope| !held.allows(*scope)));
        assert!(!Scopes::TASKS.allows_named("sites:read"));
        assert!(Scopes::TASKS.allows_named("tasks:read") && !Scopes::TASKS.allows_named("admin"));
        assert!(Scopes::ADMIN.allows_named("sites:read"));
    }

    #[test]
    fn settings_are_read_strictly_and_written_as_they_are_read() {
        for text in
            ["", "tasks:read", "tasks:enqueue tasks:read tasks:cancel", "admin", "admin sites:read"]
        {
            assert_eq!(text.parse::<Scopes>().unwrap().to_string(), text);
        }
        for wrong in ["tasks:reed", "sites", "sites:", ":read", "Sites:read", "a:b:c", "sites:*"] {
            assert!(wrong.parse::<Scopes>().is_err(), "{wrong}");
        }
        assert!("Admin".parse::<Scopes>().is_err());
        for text in ["", "a=", "a=admin,b=tasks:enqueue tasks:read"] {
            assert_eq!(text.parse::<RoleScopes>().unwrap().to_string(), text);
        }
        for wrong in ["admin", "=admin", "a=root", "a=admin,a=admin"] {
            assert!(wrong.parse::<RoleScopes>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn words_of_other_services_grant_nothing() {
        let words = ["openid", "tasks:read", "ADMIN", "tasks:*", "admin2", "", "Sites:read"];
        assert_eq!(Scopes::of_words(words), Scope::Read.into());
    }
}
