//! Reports for finance: a question with a checked selection, rows in a fixed order, and a watermark that says what they
//! are true at. Ledgers only ever grow, by position, so a report as of a position is the one with nothing behind it:
//! asked again, also after a rebuild, it is the same file to the byte.
//!
//! | module | holds |
//! |---|---|
//! | [`accounts`] | statements, open holds and the trial balance |
//! | [`close`] | the close of a month with everything that belongs to it |
//! | [`column`] | columns and values |
//! | [`focus`] | usage in the columns of FOCUS 1.2 |
//! | [`format`] | JSON, CSV and Parquet |
//! | [`query`] | a report as SQL |
//! | [`selection`] | what is asked for |
//! | [`usage`] | usage and margin |
//! | [`watermark`] | what a report is true at |

pub mod accounts;
pub mod close;
pub mod column;
pub mod focus;
pub mod format;
pub mod query;
pub mod selection;
pub mod usage;
pub mod watermark;

use std::io;

use aihub_domain::period::Month;
use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt, TryStreamExt, channel::mpsc, stream};
use sqlx::PgPool;
use thiserror::Error;
use tokio::task::spawn_blocking;

use self::{
    format::{Format, FormatError, Heading, Writer},
    query::ReportQuery,
    selection::{Fault, Name, Selection},
    usage::{Changed, Source},
    watermark::{Basis, Views, Watermark},
};
use crate::{credit_ledger, usage_daily, usage_ledger, usage_monthly};

/// About so many bytes are written down before they are passed on.
const PIECE_BYTES: usize = 64 << 10;
/// How many pieces may wait for whoever reads them.
const PIECES: usize = 4;

#[derive(Debug, Error)]
pub enum ReportError {
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error("the database is unavailable: {0}")]
    Database(#[from] sqlx::Error),
    #[error("the report cannot be written: {0}")]
    Format(#[from] FormatError),
}

/// A part of a report on its way.
#[derive(Debug)]
pub enum Piece {
    Bytes(Bytes),
    /// Comes once. The last bytes may come behind it.
    Watermark(Watermark),
}

/// A report that is about to be written: everything that can be wrong with the question has been said.
pub struct Report {
    views: Views,
    selection: Selection,
    query: ReportQuery,
    format: Format,
    basis: Basis,
    standing: Vec<String>,
}

impl Report {
    /// All of it is read from one snapshot, which is kept until the stream has ended or is dropped.
    pub async fn open(pool: &PgPool, selection: Selection, format: Format) -> Result<Self, ReportError> {
        if format == Format::Focus && selection.name != Name::Usage {
            return Err(Fault::new("format", "FOCUS has columns for usage only").into());
        }
        if format == Format::Focus && !selection.group_by.is_empty() {
            return Err(Fault::new("groupBy", "FOCUS says itself what is kept apart").into());
        }
        if selection.page.is_some() && format != Format::Json {
            return Err(Fault::new("limit", "only JSON comes in pages, other formats are whole").into());
        }
        let (names, source) = views_of(&selection, format);
        let tables: Vec<_> = names.iter().copied().chain([usage_ledger::NAME, "month_close_v1"]).collect();
        let mut views = Views::open(pool, &tables).await?;
        let (position, source) = position(&mut views, &selection, &names, source).await?;
        let basis = views.basis(position).await?;
        let present = source.as_ref().map_or(names.clone(), |source| vec![source.view()]);
        let last_month = selection.days.map(|(_, to)| Month::of_day(to));
        // What is asked as of a position, or is of closed months, has nothing behind it.
        let is_open = last_month.is_none_or(|month| views.close_of(month, u64::MAX).is_none());
        let is_latest = selection.as_of.is_none() && (is_open || selection.name == Name::Close);
        let standing = if is_latest { views.standing(&present) } else { vec![] };
        let query = match (selection.name, source) {
            (Name::Usage | Name::Margin, Some(source)) => usage::query(&selection, &source, &basis),
            (Name::Usage | Name::Margin, None) => focus::query(&selection, &basis),
            (Name::Statement, _) => accounts::statement(&selection, &basis),
            (Name::Holds, _) => accounts::holds(&selection, &basis),
            (Name::TrialBalance, _) => accounts::trial_balance(&selection, &basis),
            (Name::Close, _) => close::query(&selection, &basis),
        };
        Ok(Self { views, selection, query, format, basis, standing })
    }

    /// Where in the log it stands.
    pub fn basis(&self) -> &Basis {
        &self.basis
    }

    /// The views that it is made from and that do not go on, in words, where it is to be the latest.
    pub fn standing(&self) -> &[String] {
        &self.standing
    }

    pub fn heading(&self) -> Heading {
        Heading {
            report: if self.format == Format::Focus { "usage-focus-1.2" } else { self.selection.name.as_str() },
            parameters: self.selection.json(),
            columns: self.query.columns.clone(),
        }
    }

    /// Rows are read as fast as the pieces are taken.
    pub fn pieces(self) -> impl Stream<Item = Result<Piece, ReportError>> + Send + 'static {
        let (sender, receiver) = mpsc::channel(PIECES);
        let watermark = stream::once(self.write(sender)).map_ok(Piece::Watermark);
        stream::select(receiver.map(|bytes| Ok(Piece::Bytes(bytes))), watermark)
    }

    async fn write(mut self, mut pieces: mpsc::Sender<Bytes>) -> Result<Watermark, ReportError> {
        let columns = self.query.columns.clone();
        let mut writer = Writer::begin(self.format, self.heading())?;
        let page = self.selection.page;
        let sql = self.query.sql(page);
        let mut sums = vec![0_i128; columns.len()];
        let (mut rows, mut next, mut since) = (0_u64, None, 0_usize);
        {
            let mut stream = self.query.bound(&sql).fetch(&mut *self.views.transaction);
            while let Some(row) = stream.try_next().await? {
                if let Some(page) = page.filter(|page| rows == u64::from(page.limit)) {
                    next = Some(self.selection.cursor(self.basis.position, page.offset + rows));
                    break;
                }
                let mut values = Vec::with_capacity(columns.len());
                for (index, column) in columns.iter().enumerate() {
                    let value = column.kind.read(&row, index)?;
                    sums[index] += value.amount();
                    values.push(value);
                }
                rows += 1;
                since += 16 * columns.len();
                writer.row(values)?;
                if since > PIECE_BYTES {
                    since = 0;
                    send(&mut pieces, &mut writer).await?;
                }
            }
        }
        self.views.transaction.commit().await?;
        let totals = columns.iter().zip(sums).filter(|(column, _)| column.is_totalled);
        let totals = totals.map(|(column, sum)| (column.name, column.kind.write_sum(sum))).collect();
        let watermark = Watermark { basis: self.basis, rows, totals, standing: self.standing };
        // A workbook is made of all of it at the end, which takes its time.
        let ending = spawn_blocking(move || writer.end(&watermark, next.as_deref()).map(|()| (writer, watermark)));
        let (mut writer, watermark) = ending.await.map_err(io::Error::other).map_err(FormatError::Ended)??;
        send(&mut pieces, &mut writer).await?;
        Ok(watermark)
    }
}

async fn send(pieces: &mut mpsc::Sender<Bytes>, writer: &mut Writer) -> Result<(), ReportError> {
    let bytes = writer.take()?;
    if !bytes.is_empty() {
        // The receiver stands in the same stream as whoever sends: if it is gone, nobody asks for what comes next.
        let _ = pieces.send(bytes.into()).await;
    }
    Ok(())
}

/// The views that a report is made from, and for usage the smallest that has what is asked for.
fn views_of(selection: &Selection, format: Format) -> (Vec<&'static str>, Option<Source>) {
    match selection.name {
        _ if format == Format::Focus => (vec![usage_ledger::NAME, credit_ledger::NAME], None),
        Name::Usage | Name::Margin => {
            let names = vec![usage_ledger::NAME, usage_daily::NAME, usage_monthly::NAME];
            (names, Some(Source::smallest(selection)))
        }
        Name::Statement | Name::Holds => (vec![credit_ledger::NAME], None),
        Name::TrialBalance | Name::Close => (vec![credit_ledger::NAME, usage_ledger::NAME], None),
    }
}

/// Where in the log the report stands, and where its usage comes from.
///
/// What is booked in closed months does not change any more. So a report on such months stands, unless it is asked
/// otherwise, where the last of them was closed: it is the same file from then on. The close itself also tells what came later.
async fn position(
    views: &mut Views,
    selection: &Selection,
    names: &[&'static str],
    smallest: Option<Source>,
) -> Result<(u64, Option<Source>), ReportError> {
    // What a position is looked up in, and what the report is made from where none is asked for.
    let (past, present) = match &smallest {
        Some(source) => (&[usage_ledger::NAME][..], &[source.view()][..]),
        None => (names, names),
    };
    let asked = match selection.as_of {
        Some(as_of) => Some(views.as_of(as_of, past).await?),
        None => None,
    };
    let last = views.position(present);
    let last_month = selection.days.map(|(_, to)| Month::of_day(to));
    let close = last_month.and_then(|month| views.close_of(month, last)).map(|close| (close.watermark, close.position));
    let position = match (asked, close) {
        (Some(asked), _) => asked,
        (None, Some((watermark, _))) if selection.name != Name::Close => watermark,
        // One view is true at every position that it has come to.
        (None, _) if present.len() == 1 => last,
        (None, _) => views.end_of_commit(last).await?,
    };
    let Some(smallest) = smallest else { return Ok((position, None)) };
    // What is added up is true where its view stands, and for closed months anywhere behind their close.
    if position == last || close.is_some_and(|(watermark, _)| position >= watermark) {
        return Ok((position, Some(smallest)));
    }
    let changed = match selection.days {
        Some(days) if views.position(&[usage_daily::NAME]) >= position => {
            Changed::Days(usage_daily::changed_since(&mut views.transaction, position, days).await?)
        }
        _ => Changed::All,
    };
    Ok((position, Some(Source::Past(changed))))
}
