//! An array parameter that is encoded as it grows.

use sqlx::{
    Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo, types::Oid},
};

pub type Texts = Column<25, 1009>;
pub type Byteas = Column<17, 1001>;
/// JSON text, sent as it is: the library's own `Json` declares its arrays to be `jsonb[]`, and the server would
/// rewrite the text.
pub type Jsons = Column<114, 199>;

/// An array of values that are their own bytes on the wire. The parameters are the OIDs of the element's type and of
/// the array's, which PostgreSQL never changes.
///
/// The callers encode their values while the server works on the batch before, so the writer has little left to do
/// between two calls.
#[derive(Debug, Default)]
pub struct Column<const ELEMENT: u32, const ARRAY: u32> {
    count: i32,
    /// Each value behind its length.
    encoded: Vec<u8>,
}

impl<const ELEMENT: u32, const ARRAY: u32> Column<ELEMENT, ARRAY> {
    pub fn push(&mut self, value: &[u8]) {
        self.count += 1;
        // A batch is bounded far below 2 GiB.
        self.encoded.extend(i32::try_from(value.len()).unwrap_or(i32::MAX).to_be_bytes());
        self.encoded.extend(value);
    }
}

impl<const ELEMENT: u32, const ARRAY: u32> Type<Postgres> for Column<ELEMENT, ARRAY> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(ARRAY))
    }
}

impl<const ELEMENT: u32, const ARRAY: u32> Encode<'_, Postgres> for Column<ELEMENT, ARRAY> {
    /// One dimension, no nulls, elements of `ELEMENT`, `count` of them, numbered from 1.
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend(1_i32.to_be_bytes());
        buffer.extend(0_i32.to_be_bytes());
        buffer.extend(ELEMENT.to_be_bytes());
        buffer.extend(self.count.to_be_bytes());
        buffer.extend(1_i32.to_be_bytes());
        buffer.extend_from_slice(&self.encoded);
        Ok(IsNull::No)
    }
}
