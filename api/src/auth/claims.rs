//! What a believed token says of its bearer.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use umbel_proto::misleads;

use super::{
    scope::{RoleScopes, Scope, Scopes},
    token::TokenError,
};

/// Who asks, and what they may do: of a token that was believed. Handlers take it as
/// `Extension<Claims>`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claims {
    /// The subject: 1–255 characters, none of them control characters or line ends.
    pub sub: String,
    scopes: Scopes,
    /// The tasks that the scopes of tasks are narrowed to; `None` is all.
    tasks: Option<Arc<[String]>>,
}

/// What a token may do that does not say so itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Unsaid {
    pub default: Scopes,
    pub roles: RoleScopes,
}

/// The claims as they are written. A claim of another type makes the token invalid.
#[derive(Debug, Deserialize)]
pub(super) struct Written {
    sub: String,
    iss: String,
    aud: Audience,
    scope: Option<String>,
    scopes: Option<Vec<String>>,
    tasks: Option<Vec<String>>,
    role: Option<Value>,
    app_metadata: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// A subject stands in each log line of its requests.
pub(super) const SUBJECT_LONGEST: usize = 255;

impl Claims {
    /// Whether the token holds a scope; `admin` holds all.
    pub fn allows(&self, scope: Scope) -> bool {
        self.scopes.allows(scope)
    }

    /// As [`allows`](Self::allows), of a scope by its name, such as those of an application
    /// (`sites:read`).
    pub fn allows_named(&self, scope: &str) -> bool {
        self.scopes.allows_named(scope)
    }

    /// Whether what the token may do with tasks it may do with those of this name: the claim
    /// `tasks` narrows it, and never an admin.
    pub fn allows_task(&self, name: &str) -> bool {
        let named = |tasks: &Arc<[String]>| tasks.iter().any(|task| task == name);
        self.is_admin() || self.tasks.as_ref().is_none_or(named)
    }

    /// Whether the token may see and end what belongs to others.
    pub fn is_admin(&self) -> bool {
        self.allows(Scope::Admin)
    }
}

impl Written {
    /// Refuses a subject that is none, and a token that names nobody as its issuer or audience.
    pub fn read(self, unsaid: &Unsaid) -> Result<Claims, TokenError> {
        let scopes = self.scopes(unsaid);
        let audience = match &self.aud {
            Audience::One(name) => std::slice::from_ref(name),
            Audience::Many(names) => names,
        };
        if self.iss.is_empty() || audience.iter().all(String::is_empty) {
            return Err(TokenError::Nameless);
        }
        if !subject_fits(&self.sub) {
            return Err(TokenError::Subject);
        }
        Ok(Claims { sub: self.sub, scopes, tasks: self.tasks.map(Arc::from) })
    }

    /// What the token says it may do; without that what its roles stand for; without that what the
    /// settings give to everybody. `user_metadata` is never looked at: users write it themselves.
    fn scopes(&self, unsaid: &Unsaid) -> Scopes {
        if self.scope.is_some() || self.scopes.is_some() {
            let words = self.scope.iter().flat_map(|text| text.split_ascii_whitespace());
            return Scopes::of_words(words.chain(self.scopes.iter().flatten().map(String::as_str)));
        }
        let of_app = self.app_metadata.as_ref().and_then(|metadata| metadata.get("role"));
        let roles = [self.role.as_ref(), of_app].into_iter().flatten().filter_map(Value::as_str);
        let granted = roles.filter_map(|role| unsaid.roles.of(role)).reduce(Scopes::with);
        granted.unwrap_or_else(|| unsaid.default.clone())
    }
}

/// What misleads would let a subject forge log lines before the eyes of their reader.
pub(super) fn subject_fits(subject: &str) -> bool {
    (1..=SUBJECT_LONGEST).contains(&subject.chars().count()) && !subject.contains(misleads)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(mut claims: Value) -> Claims {
        (claims["iss"], claims["aud"]) = (json!("i"), json!("a"));
        let unsaid = Unsaid {
            default: Scope::Read.into(),
            roles: "service_role=admin,staff=tasks:cancel,anon=".parse().unwrap(),
        };
        serde_json::from_value::<Written>(claims).unwrap().read(&unsaid).unwrap()
    }

    fn scopes(claims: Value) -> String {
        read(claims).scopes.to_string()
    }

    #[test]
    fn what_a_token_says_goes_before_its_roles_and_those_before_the_default() {
        assert_eq!(scopes(json!({"sub": "a"})), "tasks:read");
        assert_eq!(scopes(json!({"sub": "a", "scope": ""})), "");
        assert_eq!(
            scopes(json!({"sub": "a", "scope": "tasks:enqueue x  tasks:cancel"})),
            "tasks:enqueue tasks:cancel"
        );
        assert_eq!(scopes(json!({"sub": "a", "scopes": ["admin"]})), "admin");
        assert_eq!(scopes(json!({"sub": "a", "scope": "", "role": "service_role"})), "");
        assert_eq!(scopes(json!({"sub": "a", "role": "service_role"})), "admin");
        assert_eq!(scopes(json!({"sub": "a", "role": "anon"})), "");
        assert_eq!(scopes(json!({"sub": "a", "role": "unknown"})), "tasks:read");
        assert_eq!(scopes(json!({"sub": "a", "app_metadata": {"role": "staff"}})), "tasks:cancel");
        let both = json!({"sub": "a", "role": "anon", "app_metadata": {"role": "staff"}});
        assert_eq!(scopes(both), "tasks:cancel");
    }

    #[test]
    fn what_users_write_of_themselves_grants_nothing() {
        let own = json!({"sub": "a", "user_metadata": {"role": "service_role", "scope": "admin"}});
        assert_eq!(scopes(own), "tasks:read");
        for odd in [json!(7), json!(["service_role"]), json!({"service_role": true}), Value::Null] {
            assert_eq!(scopes(json!({"sub": "a", "role": odd, "app_metadata": odd})), "tasks:read");
        }
    }

    #[test]
    fn a_list_of_tasks_narrows_all_but_an_admin() {
        let some = read(json!({"sub": "a", "scope": "tasks:read", "tasks": ["pages.scrape"]}));
        assert!(some.allows_task("pages.scrape") && !some.allows_task("pages.scrape2"));
        assert!(read(json!({"sub": "a"})).allows_task("pages.scrape"));
        assert!(!read(json!({"sub": "a", "tasks": []})).allows_task("pages.scrape"));
        let admin = read(json!({"sub": "a", "scope": "admin", "tasks": []}));
        assert!(admin.is_admin() && admin.allows_task("pages.scrape"));
    }
}
