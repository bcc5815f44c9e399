//! What a token may do: scopes, and how a token comes by them.

use std::{collections::BTreeMap, fmt, str::FromStr};

/// One thing that a token may do.
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

/// What a token may do in all. Default: nothing.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Scopes(u8);

/// Which scopes a role of the identity provider stands for (JWT_ROLE_SCOPES). Default: no role
/// stands for any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoleScopes(BTreeMap<String, Scopes>);

/// A text that does not say which scopes are meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    #[error("`{0}` is no scope; there are tasks:enqueue, tasks:read, tasks:cancel and admin")]
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
    pub const NONE: Self = Self(0);
    /// The three of tasks.
    pub const TASKS: Self = Self(Scope::Enqueue.bit() | Scope::Read.bit() | Scope::Cancel.bit());
    pub const ADMIN: Self = Self(Scope::Admin.bit());

    /// Whether the scope is held; `admin` holds all.
    pub const fn allows(self, scope: Scope) -> bool {
        self.0 & (scope.bit() | Scope::Admin.bit()) != 0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What the words of a token grant here; those that are meant for other services grant nothing.
    pub(super) fn of_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let known = words.into_iter().filter_map(|word| word.parse::<Scope>().ok());
        known.fold(Self::NONE, |scopes, scope| scopes.with(scope.into()))
    }
}

impl RoleScopes {
    /// `None` where the role stands for nothing.
    pub(super) fn of(&self, role: &str) -> Option<Scopes> {
        self.0.get(role).copied()
    }
}

impl From<Scope> for Scopes {
    fn from(scope: Scope) -> Self {
        Self(scope.bit())
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
            .try_fold(Self::NONE, |scopes, word| Ok(scopes.with(word.parse::<Scope>()?.into())))
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
        let held = Scope::ALL.into_iter().filter(|scope| self.0 & scope.bit() != 0);
        let words: Vec<&str> = held.map(Scope::as_str).collect();
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
    fn settings_are_read_strictly_and_written_as_they_are_read() {
        for text in ["", "tasks:read", "tasks:enqueue tasks:read tasks:cancel", "admin"] {
            assert_eq!(text.parse::<Scopes>().unwrap().to_string(), text);
        }
        assert!("tasks:reed".parse::<Scopes>().is_err());
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
        let scopes = Scopes::of_words(["openid", "tasks:read", "ADMIN", "tasks:*", "admin2", ""]);
        assert_eq!(scopes, Scope::Read.into());
    }
}
