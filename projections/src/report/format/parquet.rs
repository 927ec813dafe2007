use std::sync::Arc;

use parquet::{
    basic::Compression,
    data_type::{ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int32Type, Int64Type},
    file::{
        metadata::KeyValue,
        properties::WriterProperties,
        writer::{SerializedColumnWriter, SerializedFileWriter},
    },
    schema::parser::parse_message_type,
};

use super::{FormatError, Heading};
use crate::report::{
    column::{Column, Kind, Value},
    watermark::Watermark,
};

/// How many rows are kept in memory, column by column, until they are a row group.
const ROW_GROUP: usize = 16_384;
/// The days from 0001-01-01, which chrono counts from, to 1970-01-01, which Parquet does.
const EPOCH_DAY: i32 = 719_163;

/// A Parquet file, made of the rows alone: no time, no host, no version of ours or of a library stands in it.
pub struct ParquetWriter {
    file: SerializedFileWriter<Vec<u8>>,
    heading: Heading,
    rows: Vec<Vec<Value>>,
}

impl ParquetWriter {
    pub fn begin(heading: Heading) -> Result<Self, FormatError> {
        let columns: Vec<_> = heading.columns.iter().map(field).collect();
        let schema = parse_message_type(&format!("message report {{ {} }}", columns.concat()))?;
        let properties =
            WriterProperties::builder().set_created_by("aihub".to_owned()).set_compression(Compression::SNAPPY).build();
        let file = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties))?;
        Ok(Self { file, heading, rows: Vec::new() })
    }

    pub fn row(&mut self, values: Vec<Value>) -> Result<(), FormatError> {
        self.rows.push(values);
        if self.rows.len() >= ROW_GROUP { self.flush() } else { Ok(()) }
    }

    pub fn end(&mut self, watermark: &Watermark) -> Result<(), FormatError> {
        self.flush()?;
        let texts = [
            ("aihub.report", self.heading.report.to_owned()),
            ("aihub.parameters", self.heading.parameters.to_string()),
            ("aihub.watermark", watermark.json().to_string()),
        ];
        for (key, text) in texts {
            self.file.append_key_value_metadata(KeyValue::new(key.to_owned(), text));
        }
        self.file.finish()?;
        Ok(())
    }

    pub fn take(&mut self) -> Result<Vec<u8>, FormatError> {
        self.file.flush().map_err(parquet::errors::ParquetError::from)?;
        // The file counts its bytes by itself, so it does not miss what is taken away.
        Ok(std::mem::take(self.file.inner_mut()))
    }

    fn flush(&mut self) -> Result<(), FormatError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows);
        let mut group = self.file.next_row_group()?;
        for (index, column) in self.heading.columns.iter().enumerate() {
            if let Some(mut writer) = group.next_column()? {
                write(&mut writer, column.kind, rows.iter().filter_map(|row| row.get(index)))?;
                writer.close()?;
            }
        }
        group.close()?;
        Ok(())
    }
}

fn field(column: &Column) -> String {
    let name = column.name;
    match column.kind {
        Kind::Text => format!("OPTIONAL BYTE_ARRAY {name} (UTF8); "),
        Kind::Day => format!("OPTIONAL INT32 {name} (DATE); "),
        Kind::Instant => format!("OPTIONAL INT64 {name} (TIMESTAMP(MICROS,true)); "),
        Kind::Count => format!("OPTIONAL INT64 {name}; "),
        Kind::Credits => format!("OPTIONAL FIXED_LEN_BYTE_ARRAY (16) {name} (DECIMAL(38,6)); "),
        Kind::Usd => format!("OPTIONAL FIXED_LEN_BYTE_ARRAY (16) {name} (DECIMAL(38,12)); "),
    }
}

/// A value that is there has the definition level 1.
fn write<'a>(
    writer: &mut SerializedColumnWriter<'_>,
    kind: Kind,
    values: impl Iterator<Item = &'a Value> + Clone,
) -> Result<(), FormatError> {
    let levels: Vec<i16> = values.clone().map(|value| i16::from(*value != Value::None)).collect();
    match kind {
        Kind::Text => {
            let texts = values.filter_map(|value| match value {
                Value::Text(text) => Some(ByteArray::from(text.as_str())),
                _ => None,
            });
            writer.typed::<ByteArrayType>().write_batch(&texts.collect::<Vec<_>>(), Some(&levels), None)?;
        }
        Kind::Day => {
            let days = values.filter_map(|value| match value {
                Value::Day(day) => Some(chrono::Datelike::num_days_from_ce(day) - EPOCH_DAY),
                _ => None,
            });
            writer.typed::<Int32Type>().write_batch(&days.collect::<Vec<_>>(), Some(&levels), None)?;
        }
        Kind::Instant | Kind::Count => {
            let numbers = values.filter_map(|value| match value {
                Value::Instant(at) => Some(at.timestamp_micros()),
                Value::Count(number) => Some(*number),
                _ => None,
            });
            writer.typed::<Int64Type>().write_batch(&numbers.collect::<Vec<_>>(), Some(&levels), None)?;
        }
        Kind::Credits | Kind::Usd => {
            let sums = values.filter_map(|value| match value {
                Value::Credits(sum) | Value::Usd(sum) => Some(FixedLenByteArray::from(sum.to_be_bytes().to_vec())),
                _ => None,
            });
            writer.typed::<FixedLenByteArrayType>().write_batch(&sums.collect::<Vec<_>>(), Some(&levels), None)?;
        }
    }
    Ok(())
}
