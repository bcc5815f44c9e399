//! The reason for the store: behind a transaction pooler, every client gets its own answers.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::task::JoinSet;
use umbel_store::{Db, StoreError};

use super::House;

const CLIENTS: i64 = 20;
const STATEMENTS: i64 = 50;

#[derive(Debug, PartialEq, Clone, Copy, Serialize, Deserialize)]
struct Tag {
    client: i64,
    n: i64,
}

#[derive(Debug, Default, PartialEq)]
struct Tally {
    right: i64,
    wrong: i64,
    errors: Vec<String>,
}

const ALL_RIGHT: Tally = Tally { right: CLIENTS * STATEMENTS, wrong: 0, errors: Vec::new() };

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.right += other.right;
        self.wrong += other.wrong;
        self.errors.extend(other.errors);
    }
}

/// Lets twenty clients, each with a text of SQL of its own, ask fifty times for their own tag.
async fn tally<A>(ask: impl Fn(i64, Tag) -> A + Clone + Send + 'static) -> Tally
where
    A: Future<Output = Result<Option<Tag>, String>> + Send + 'static,
{
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let ask = ask.clone();
        clients.spawn(async move {
            let mut tally = Tally::default();
            for n in 0..STATEMENTS {
                let tag = Tag { client, n };
                match ask(client, tag).await {
                    Ok(answer) if answer == Some(tag) => tally.right += 1,
                    Ok(_) => tally.wrong += 1,
                    Err(error) => tally.errors.push(error),
                }
            }
            tally
        });
    }
    let mut sum = Tally::default();
    while let Some(tally) = clients.join_next().await {
        sum += tally.expect("no client panics");
    }
    sum
}

/// The text of each client, made once: `tag` says how this form spells a tag's two columns.
fn texts(tag: &str) -> &'static [&'static str] {
    let text = |client: i64| {
        let text =
            format!("select {client}::bigint as client, n from {tag} where client = {client}");
        &*Box::leak(text.into_boxed_str())
    };
    Box::leak((0..CLIENTS).map(text).collect::<Vec<_>>().into_boxed_slice())
}

fn clients(house: &House) -> &'static [Db] {
    Box::leak((0..CLIENTS).map(|_| house.client()).collect::<Vec<_>>().into_boxed_slice())
}

const OURS: &str = "jsonb_to_record({params}) as tag(client bigint, n bigint)";

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_gives_every_client_its_own_answer() {
    let house = House::start();
    let (clients, texts) = (clients(&house), texts(OURS));
    let tally = tally(move |client, tag| async move {
        let client = client as usize;
        clients[client].row(texts[client], &tag).await.map_err(|error| super::told(&error))
    });
    assert_eq!(tally.await, ALL_RIGHT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_in_a_transaction_gives_every_client_its_own_answer() {
    let house = House::start();
    let (clients, texts) = (clients(&house), texts(OURS));
    let tally = tally(move |client, tag| async move {
        let client = client as usize;
        let answer = clients[client].transaction(async |tx| tx.row(texts[client], &tag).await);
        answer.await.map_err(|error: StoreError| super::told(&error))
    });
    assert_eq!(tally.await, ALL_RIGHT);
}

/// What sqlx offers, each as it would be used behind a pooler.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    /// As it comes.
    Plain,
    /// Nothing cached: a named statement for each question.
    Uncached,
    /// Unnamed statements.
    Unnamed,
    /// Unnamed, and nothing cached.
    UnnamedUncached,
    PlainInTransaction,
    UncachedInTransaction,
    /// All messages of the unnamed statement go to one server connection: safe, in four round trips.
    UnnamedInTransaction,
}

impl Form {
    const ALL: [Self; 7] = [
        Self::Plain,
        Self::Uncached,
        Self::Unnamed,
        Self::UnnamedUncached,
        Self::PlainInTransaction,
        Self::UncachedInTransaction,
        Self::UnnamedInTransaction,
    ];

    fn caches(self) -> bool {
        matches!(self, Self::Plain | Self::Unnamed | Self::PlainInTransaction)
    }

    fn is_named(self) -> bool {
        !matches!(self, Self::Unnamed | Self::UnnamedUncached | Self::UnnamedInTransaction)
    }

    fn in_transaction(self) -> bool {
        matches!(
            self,
            Self::PlainInTransaction | Self::UncachedInTransaction | Self::UnnamedInTransaction
        )
    }

    async fn tally(self, house: &House) -> Tally {
        let options: PgConnectOptions =
            house.pooler.url(&house.database).parse().expect("an address");
        let options = options.extra_float_digits(None);
        let options = if self.caches() { options } else { options.statement_cache_capacity(0) };
        let pools: &[PgPool] = Box::leak(
            (0..CLIENTS)
                .map(|_| PgPoolOptions::new().max_connections(1).connect_lazy_with(options.clone()))
                .collect::<Vec<_>>()
                .into_boxed_slice(),
        );
        let texts = texts("(select $1::bigint as client, $2::bigint as n) as tag");
        let tally = tally(move |client, tag| async move {
            let client = client as usize;
            let answer = self.ask(&pools[client], texts[client], tag).await;
            answer.map_err(|error| error.to_string())
        });
        tally.await
    }

    #[expect(clippy::disallowed_methods, reason = "it is the danger that the store keeps away")]
    async fn ask(self, pool: &PgPool, text: &'static str, tag: Tag) -> sqlx::Result<Option<Tag>> {
        let query = sqlx::query_as::<_, (i64, i64)>(text).persistent(self.is_named());
        let query = query.bind(tag.client).bind(tag.n);
        let row = if self.in_transaction() {
            let mut transaction = pool.begin().await?;
            let row = query.fetch_optional(&mut *transaction).await?;
            transaction.commit().await?;
            row
        } else {
            query.fetch_optional(pool).await?
        };
        Ok(row.map(|(client, n)| Tag { client, n }))
    }
}

/// The table of docs/SUPAVISOR.md, and the control: this pooler tells on whoever asks as sqlx does.
#[tokio::test(flavor = "multi_thread")]
async fn of_the_forms_that_sqlx_offers_only_one_is_safe_and_needs_four_round_trips() {
    for form in Form::ALL {
        // Named statements stay behind in the server's connections, so each has its own.
        let house = House::start();
        let tally = form.tally(&house).await;
        println!(
            "{form:?}: {} right, {} wrong, {} errors",
            tally.right,
            tally.wrong,
            tally.errors.len()
        );
        if form == Form::UnnamedInTransaction {
            assert_eq!(tally, ALL_RIGHT);
        } else {
            assert!(tally.right < CLIENTS * STATEMENTS, "{form:?} would be safe: {tally:?}");
        }
    }
}
