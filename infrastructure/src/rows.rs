//! Rows of a table as one parameter of a statement, however many there are: an array of composite values, in binary. For
//! what is written at every request; JSON (see [`json_rows`](crate::json_rows)) costs the server several times as much.
//!
//! ```sql
//! INSERT INTO request_status_v1 SELECT * FROM unnest($1::rows.request_status_v1[])
//! ```
//!
//! The types stand in the schema `rows` and not with the tables: a rebuild replaces those, and a connection goes on with
//! the types that it has seen.

use std::borrow::Cow;

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;
use sqlx::{
    Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo, types::Oid},
};

use crate::json_rows::json_text;

/// What a struct is in the schema `rows`; made by [`row!`](crate::row).
pub trait TableRow {
    const TYPE: &'static str;
    /// In the type's order, which is the one on the wire.
    const COLUMNS: &'static [&'static str];
}

/// Makes a struct a row: `row!(AccountBalance, "account_balance_v1", account, granted_microcredits, …)`, with every column
/// of the type in its order. PostgreSQL compares their types; a test has to compare their names.
#[macro_export]
macro_rules! row {
    ($row:ty, $name:literal, $($column:ident $(. $part:ident)?),+ $(,)?) => {
        impl $crate::rows::TableRow for $row {
            const TYPE: &'static str = $name;
            const COLUMNS: &'static [&'static str] = &[$($crate::row!(@name $column $($part)?)),+];
        }

        impl ::sqlx::Type<::sqlx::Postgres> for $row {
            fn type_info() -> ::sqlx::postgres::PgTypeInfo {
                ::sqlx::postgres::PgTypeInfo::with_name(concat!("rows.", $name))
            }
        }

        impl ::sqlx::postgres::PgHasArrayType for $row {
            fn array_type_info() -> ::sqlx::postgres::PgTypeInfo {
                ::sqlx::postgres::PgTypeInfo::array_of(concat!("rows.", $name))
            }
        }

        impl ::sqlx::Encode<'_, ::sqlx::Postgres> for $row {
            fn encode_by_ref(
                &self,
                buffer: &mut ::sqlx::postgres::PgArgumentBuffer,
            ) -> Result<::sqlx::encode::IsNull, ::sqlx::error::BoxDynError> {
                let mut row = ::sqlx::postgres::types::PgRecordEncoder::new(buffer);
                $(row.encode($crate::rows::Cell::cell(&self.$column $(.$part)?))?;)+
                row.finish();
                Ok(::sqlx::encode::IsNull::No)
            }
        }
    };
    (@name $column:ident) => { stringify!($column) };
    (@name $column:ident $part:ident) => { stringify!($part) };
}

/// A value as it stands in a column.
pub trait Cell {
    type Column<'c>: Encode<'c, Postgres> + Type<Postgres> + 'c
    where
        Self: 'c;

    fn cell(&self) -> Self::Column<'_>;
}

macro_rules! as_it_is {
    ($($value:ty),+) => {
        $(impl Cell for $value {
            type Column<'c> = $value;

            fn cell(&self) -> $value {
                *self
            }
        })+
    };
}

as_it_is!(bool, i32, i64, DateTime<Utc>, NaiveDate);

/// Without zero characters, which Rust can say and no text of the database can hold: each becomes U+FFFD. What a provider
/// calls its model must not stop a view.
impl Cell for str {
    type Column<'c> = Cow<'c, str>;

    fn cell(&self) -> Cow<'_, str> {
        if self.contains('\0') { Cow::Owned(self.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(self) }
    }
}

impl Cell for String {
    type Column<'c> = Cow<'c, str>;

    fn cell(&self) -> Cow<'_, str> {
        self.as_str().cell()
    }
}

impl<T: Cell + ?Sized> Cell for &T {
    type Column<'c>
        = T::Column<'c>
    where
        Self: 'c;

    fn cell(&self) -> T::Column<'_> {
        (**self).cell()
    }
}

impl<T: Cell> Cell for Option<T> {
    type Column<'c>
        = Option<T::Column<'c>>
    where
        Self: 'c;

    fn cell(&self) -> Option<T::Column<'_>> {
        self.as_ref().map(Cell::cell)
    }
}

/// As `json`, and as text: the library declares what it encodes to be `jsonb`.
impl Cell for Value {
    type Column<'c> = Json<'c>;

    fn cell(&self) -> Json<'_> {
        Json(self)
    }
}

/// As `numeric`, exact.
impl Cell for i128 {
    type Column<'c> = Numeric;

    fn cell(&self) -> Numeric {
        Numeric(*self)
    }
}

#[derive(Debug)]
pub struct Json<'c>(&'c Value);

impl Type<Postgres> for Json<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(114))
    }
}

impl Encode<'_, Postgres> for Json<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(json_text(self.0)?.as_bytes());
        Ok(IsNull::No)
    }
}

#[derive(Debug)]
pub struct Numeric(i128);

impl Type<Postgres> for Numeric {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1700))
    }
}

impl Encode<'_, Postgres> for Numeric {
    /// What `numeric_recv` reads: how many digits to base 10,000 there are, the first one's power, sign, decimals, and the
    /// digits, all of them in 16 bits.
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let mut digits = Vec::new();
        let mut rest = self.0.unsigned_abs();
        while rest > 0 {
            digits.push(i16::try_from(rest % 10_000)?);
            rest /= 10_000;
        }
        let count = i16::try_from(digits.len())?;
        let (weight, sign, decimals) = ((count - 1).max(0), if self.0 < 0 { 0x4000 } else { 0 }, 0);
        for number in [count, weight, sign, decimals].into_iter().chain(digits.into_iter().rev()) {
            buffer.extend_from_slice(&number.to_be_bytes());
        }
        Ok(IsNull::No)
    }
}
