-- The types of rows that are written many at a time, see `infrastructure/src/rows.rs`. A table's own type ends with the
-- table, and `CREATE TYPE` knows no `LIKE`, so these are tables, which stay empty.
CREATE SCHEMA rows;
COMMENT ON SCHEMA rows IS 'Types of rows: every table here is empty';

CREATE TABLE rows.account_balance_v1 (LIKE read.account_balance_v1);
CREATE TABLE rows.credit_ledger_v1 (LIKE read.credit_ledger_v1);
CREATE TABLE rows.open_requests (LIKE work.open_requests);
CREATE TABLE rows.request_status_v1 (LIKE read.request_status_v1);
CREATE TABLE rows.usage_ledger_v1 (LIKE read.usage_ledger_v1);
-- Of usage_daily_v1 and usage_monthly_v1, which differ in the name of the first column.
CREATE TABLE rows.usage_v1 (LIKE read.usage_daily_v1);
ALTER TABLE rows.usage_v1 RENAME COLUMN day TO period;
