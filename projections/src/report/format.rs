//! How a report is written down. Writers take a row at a time and give what is ready in pieces, so that a report of any
//! length needs the same memory.

mod json;
mod parquet;
mod xlsx;

use serde_json::Value as Json;
use thiserror::Error;

use super::{
    column::{Column, Value},
    watermark::Watermark,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An object with the rows, and the watermark at its end.
    Json,
    /// RFC 4180: a line of names, a line per row, and nothing else, so that whatever reads tables reads this one. A text that a
    /// spreadsheet would take for a formula stands behind a `'`. A
    /// footer or `#` lines would be taken for rows by Excel and by most others: whoever adds up a column would add up
    /// the totals as well. The watermark stands beside it, see [`Self::Watermark`].
    Csv,
    /// With the watermark as `aihub.watermark` in the file's metadata.
    Parquet,
    /// A workbook, with the watermark in a sheet of its own.
    Xlsx,
    /// Usage in the columns of FOCUS 1.2, as CSV.
    Focus,
    /// The watermark alone, as JSON: what belongs beside a table.
    Watermark,
}

/// A writer failed, which one in memory does only where a value does not fit into the format.
#[derive(Debug, Error)]
pub enum FormatError {
    #[error("CSV: {0}")]
    Csv(#[from] csv::Error),
    #[error("Parquet: {0}")]
    Parquet(#[from] ::parquet::errors::ParquetError),
    #[error("XLSX: {0}")]
    Xlsx(#[from] rust_xlsxwriter::XlsxError),
    #[error("it was not brought to its end: {0}")]
    Ended(std::io::Error),
    #[error("a sheet has at most {most} rows: ask for fewer days, or keep fewer things apart, or take csv or parquet")]
    TooManyRows { most: u32 },
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// What a report says of itself in front of its rows.
#[derive(Debug, Clone)]
pub struct Heading {
    pub report: &'static str,
    pub parameters: Json,
    pub columns: Vec<Column>,
}

pub enum Writer {
    Json(json::JsonWriter),
    Csv(Box<csv::Writer<Vec<u8>>>),
    Parquet(Box<parquet::ParquetWriter>),
    Xlsx(Box<xlsx::XlsxWriter>),
    Watermark(Heading, Vec<u8>),
}

impl Format {
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Json, "json"),
        (Self::Csv, "csv"),
        (Self::Parquet, "parquet"),
        (Self::Xlsx, "xlsx"),
        (Self::Focus, "focus"),
        (Self::Watermark, "watermark"),
    ];

    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, name)| *name == text).map(|(format, _)| format)
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json | Self::Watermark => "application/json",
            Self::Csv | Self::Focus => "text/csv; charset=utf-8; header=present",
            Self::Parquet => "application/vnd.apache.parquet",
            Self::Xlsx => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        }
    }

    pub fn extension(self) -> &'static str {
        match self {
            Self::Json | Self::Watermark => "json",
            Self::Csv | Self::Focus => "csv",
            Self::Parquet => "parquet",
            Self::Xlsx => "xlsx",
        }
    }

    pub fn has_watermark_inside(self) -> bool {
        !matches!(self, Self::Csv | Self::Focus)
    }
}

impl Writer {
    pub fn begin(format: Format, heading: Heading) -> Result<Self, FormatError> {
        Ok(match format {
            Format::Json => Self::Json(json::JsonWriter::begin(&heading)?),
            Format::Csv | Format::Focus => {
                let mut csv = csv::Writer::from_writer(Vec::new());
                csv.write_record(heading.columns.iter().map(|column| column.name))?;
                Self::Csv(Box::new(csv))
            }
            Format::Parquet => Self::Parquet(Box::new(parquet::ParquetWriter::begin(heading)?)),
            Format::Xlsx => Self::Xlsx(Box::new(xlsx::XlsxWriter::begin(heading)?)),
            Format::Watermark => Self::Watermark(heading, Vec::new()),
        })
    }

    pub fn row(&mut self, values: Vec<Value>) -> Result<(), FormatError> {
        match self {
            Self::Json(writer) => writer.row(&values)?,
            Self::Csv(writer) => writer.write_record(values.iter().map(cell))?,
            Self::Xlsx(writer) => writer.row(&values)?,
            Self::Parquet(writer) => writer.row(values)?,
            Self::Watermark(..) => {}
        }
        Ok(())
    }

    /// `next` says where the next page begins.
    pub fn end(&mut self, watermark: &Watermark, next: Option<&str>) -> Result<(), FormatError> {
        match self {
            Self::Json(writer) => writer.end(watermark, next),
            Self::Csv(_) => {}
            Self::Parquet(writer) => writer.end(watermark)?,
            Self::Xlsx(writer) => writer.end(watermark)?,
            Self::Watermark(heading, text) => {
                *text = serde_json::to_vec_pretty(&watermark_of(heading.report, &heading.parameters, watermark))?;
                text.push(b'\n');
            }
        }
        Ok(())
    }

    /// What has been written since the last time.
    pub fn take(&mut self) -> Result<Vec<u8>, FormatError> {
        Ok(match self {
            Self::Json(writer) => std::mem::take(&mut writer.text),
            Self::Csv(writer) => {
                let done = std::mem::replace(&mut **writer, csv::Writer::from_writer(Vec::new()));
                done.into_inner().map_err(|error| csv::Error::from(error.into_error()))?
            }
            Self::Parquet(writer) => writer.take()?,
            Self::Xlsx(writer) => std::mem::take(&mut writer.done),
            Self::Watermark(_, text) => std::mem::take(text),
        })
    }
}

/// As it stands in CSV. What a spreadsheet would take for a formula is defused as OWASP says ("CSV Injection").
fn cell(value: &Value) -> String {
    match value {
        Value::Text(text) if text.starts_with(['=', '+', '-', '@', '\t', '\r']) => format!("'{text}"),
        _ => value.to_string(),
    }
}

/// What stands beside a table that has no room for it.
pub fn watermark_of(report: &str, parameters: &Json, watermark: &Watermark) -> Json {
    serde_json::json!({ "report": report, "parameters": parameters, "watermark": watermark.json() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_spreadsheet_would_take_for_a_formula_is_defused_and_amounts_stay() {
        for (text, written) in
            [("=HYPERLINK(1)", "'=HYPERLINK(1)"), ("@cf/llama", "'@cf/llama"), ("-1", "'-1"), ("gpt-6", "gpt-6")]
        {
            assert_eq!(cell(&Value::Text(text.to_owned())), written);
        }
        assert_eq!(cell(&Value::Credits(-1_500_000)), "-1.5");
    }
}
