//! A workbook for Excel, `LibreOffice` and Numbers: a sheet of the rows, whose cells have the types of their columns, and one of the
//! watermark. No text is ever a formula there.

use chrono::Datelike;
use rust_xlsxwriter::{DocProperties, ExcelDateTime, Format, Workbook, Worksheet};

use super::{FormatError, Heading};
use crate::report::{
    column::{Kind, Value},
    watermark::Watermark,
};

/// What a sheet of Excel has, the names in the first one.
const MOST_ROWS: u32 = 1 << 20;
const COLUMN_WIDTH: f64 = 18.0;
const FIRST_YEAR: i32 = 1900;

/// Made of the rows alone, so that the same report is the same file. The rows are on disk until the end.
pub struct XlsxWriter {
    workbook: Workbook,
    heading: Heading,
    formats: Vec<Format>,
    rows: u32,
    pub done: Vec<u8>,
}

impl XlsxWriter {
    pub fn begin(heading: Heading) -> Result<Self, FormatError> {
        let mut workbook = Workbook::new();
        let made = ExcelDateTime::from_ymd(2000, 1, 1)?;
        workbook.set_properties(&DocProperties::new().set_creation_datetime(&made));
        let formats = heading.columns.iter().map(|column| {
            let format = Format::new();
            match column.kind {
                Kind::Text | Kind::Count => format,
                Kind::Day => format.set_num_format("yyyy-mm-dd"),
                Kind::Instant => format.set_num_format("yyyy-mm-dd hh:mm:ss.000"),
                Kind::Credits => format.set_num_format("0.######"),
                Kind::Usd => format.set_num_format("0.############"),
            }
        });
        let formats = formats.collect();
        let sheet = workbook.add_worksheet_with_constant_memory()?;
        sheet.set_name(heading.report)?;
        sheet.set_freeze_panes(1, 0)?;
        let bold = Format::new().set_bold();
        for (nth, column) in (0..).zip(&heading.columns) {
            sheet.set_column_width(nth, COLUMN_WIDTH)?;
            sheet.write_string_with_format(0, nth, column.name, &bold)?;
        }
        Ok(Self { workbook, heading, formats, rows: 0, done: Vec::new() })
    }

    pub fn row(&mut self, values: &[Value]) -> Result<(), FormatError> {
        self.rows += 1;
        if self.rows >= MOST_ROWS {
            return Err(FormatError::TooManyRows { most: MOST_ROWS - 1 });
        }
        let (row, formats) = (self.rows, &self.formats);
        let sheet = self.workbook.worksheet_from_index(0)?;
        for ((nth, value), format) in (0..).zip(values).zip(formats) {
            write(sheet, (row, nth), value, format)?;
        }
        Ok(())
    }

    pub fn end(&mut self, watermark: &Watermark) -> Result<(), FormatError> {
        let sheet = self.workbook.add_worksheet_with_constant_memory()?;
        sheet.set_name("watermark")?;
        let mut lines = vec![
            ("report".to_owned(), self.heading.report.to_owned()),
            ("parameters".to_owned(), self.heading.parameters.to_string()),
        ];
        if let serde_json::Value::Object(fields) = watermark.json() {
            lines.extend(fields.into_iter().map(|(name, value)| {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                (name, text)
            }));
        }
        for (row, (name, text)) in (0..).zip(&lines) {
            sheet.write_string(row, 0, name)?;
            sheet.write_string(row, 1, text)?;
        }
        self.done = self.workbook.save_to_buffer()?;
        Ok(())
    }
}

fn write(sheet: &mut Worksheet, (row, column): (u32, u16), value: &Value, format: &Format) -> Result<(), FormatError> {
    match value {
        Value::None => {}
        Value::Text(text) => _ = sheet.write_string(row, column, text)?,
        // Excel has no day before.
        Value::Day(day) if day.year() < FIRST_YEAR => _ = sheet.write_string(row, column, value.to_string())?,
        Value::Day(day) => _ = sheet.write_datetime_with_format(row, column, day, format)?,
        Value::Instant(at) if at.year() < FIRST_YEAR => _ = sheet.write_string(row, column, value.to_string())?,
        Value::Instant(at) => _ = sheet.write_datetime_with_format(row, column, at.naive_utc(), format)?,
        // Numbers of Excel have 15 digits, which is as near as it gets; the watermark has the exact sums.
        Value::Count(_) | Value::Credits(_) | Value::Usd(_) => {
            let number: f64 = value.to_string().parse().unwrap_or(f64::NAN);
            sheet.write_number_with_format(row, column, number, format)?;
        }
    }
    Ok(())
}
