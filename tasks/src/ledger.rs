//! What paid sources cost, counted per day in Postgres, and whether one of them is stopped.
//!
//! Credits are reserved before a request and corrected by what it cost: a worker that dies in
//! between leaves more counted than was spent, never less. No transaction is open meanwhile.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use umbel::{Db, StoreError};
use utoipa::ToSchema;

/// The ledger, in Postgres.
#[derive(Clone, Debug)]
pub struct Ledger {
    db: Db,
}

/// Credits that a request may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    source: String,
    day: NaiveDate,
    cost: u32,
}

/// Why a source is not to be asked now.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Stopped {
    pub until: DateTime<Utc>,
    pub why: String,
}

/// A source as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SourceStatus {
    #[schema(example = "scraperapi")]
    pub name: String,
    /// Credits spent today, in UTC.
    pub spent_today: u64,
    /// Requests made today.
    pub requests_today: u64,
    /// It is not asked before this.
    pub stopped_until: Option<DateTime<Utc>>,
    /// Why it is not.
    pub stopped_why: Option<String>,
}

impl Ledger {
    pub(crate) fn new(db: Db) -> Self {
        Self { db }
    }

    /// Reserves credits of today, unless the source is stopped or more than `budget` would be
    /// spent: then it says until when to wait, and why.
    pub async fn reserve(
        &self,
        source: &str,
        cost: u32,
        budget: Option<u32>,
        now: DateTime<Utc>,
    ) -> Result<Result<Reserved, Stopped>, StoreError> {
        #[derive(Serialize)]
        struct Params<'a> {
            source: &'a str,
            day: NaiveDate,
            cost: u32,
            budget: Option<u32>,
        }
        let stopped: Option<Stopped> = self.db.row(STOPPED, source).await?;
        if let Some(stopped) = stopped {
            return Ok(Err(stopped));
        }
        let day = now.date_naive();
        let reserved: Option<Reserved> =
            self.db.row(RESERVE, &Params { source, day, cost, budget }).await?;
        Ok(reserved.ok_or_else(|| Stopped {
            until: day.and_time(chrono::NaiveTime::MIN).and_utc() + TimeDelta::days(1),
            why: format!("the credits of {source} for {day} are spent"),
        }))
    }

    /// Puts what the request cost in the place of what was reserved.
    pub async fn settle(&self, reserved: &Reserved, cost: u32) -> Result<(), StoreError> {
        #[derive(Serialize)]
        struct Params<'a> {
            #[serde(flatten)]
            reserved: &'a Reserved,
            spent: u32,
        }
        self.db.execute(SETTLE, &Params { reserved, spent: cost }).await.map(drop)
    }

    /// Keeps everybody from asking a source for a while. A longer stop that there is stays.
    pub async fn stop(&self, source: &str, wait: Duration, why: &str) -> Result<(), StoreError> {
        #[derive(Serialize)]
        struct Params<'a> {
            source: &'a str,
            seconds: f64,
            why: &'a str,
        }
        let params = Params { source, seconds: wait.as_secs_f64(), why };
        self.db.execute(STOP, &params).await.map(drop)
    }

    /// All sources that were ever used, by name.
    pub async fn list(&self, now: DateTime<Utc>) -> Result<Vec<SourceStatus>, StoreError> {
        self.db.rows(LIST, &now.date_naive()).await
    }
}

const STOPPED: &str = "
select stopped_until as until, stopped_why as why from sources
where name = ({params})#>>'{}' and stopped_until > now()";

const RESERVE: &str = "
with p as materialized (
    select * from jsonb_to_record({params}) as p (source text, day date, cost bigint, budget bigint)
)
insert into credits as c (source, day, spent, requests)
select source, day, cost, 1 from p where budget is null or cost <= budget
on conflict (source, day) do update set
    spent = c.spent + excluded.spent, requests = c.requests + 1
where (select budget is null or c.spent + excluded.spent <= budget from p)
returning c.source, c.day, (select cost from p) as cost";

const SETTLE: &str = "
with p as materialized (
    select * from jsonb_to_record({params}) as p (source text, day date, cost bigint, spent bigint)
)
update credits set spent = credits.spent - p.cost + p.spent
from p where credits.source = p.source and credits.day = p.day";

const STOP: &str = "
with p as materialized (
    select * from jsonb_to_record({params}) as p (source text, seconds float8, why text)
)
insert into sources as s (name, stopped_until, stopped_why)
select source, now() + make_interval(secs => seconds), why from p
on conflict (name) do update set
    stopped_until = excluded.stopped_until, stopped_why = excluded.stopped_why
where s.stopped_until is null or s.stopped_until < excluded.stopped_until";

const LIST: &str = "
with p as materialized (select (({params})#>>'{}')::date as day)
select name, coalesce(spent, 0) as spent_today, coalesce(requests, 0) as requests_today,
    case when stopped_until > now() then stopped_until end as stopped_until,
    case when stopped_until > now() then stopped_why end as stopped_why
from (select name from sources union select source from credits) as known (name)
left join sources using (name)
left join (select c.* from credits c, p where c.day = p.day) today on today.source = known.name
order by name";
