-- A user that only reads the books, for dashboards and autoscalers. Run by psql as often as you like, once telemetry
-- has made the tables; the password is READER_PASSWORD in psql's environment, so that no command line shows it.
\set ON_ERROR_STOP on
\getenv password READER_PASSWORD
SELECT 'CREATE ROLE reader LOGIN IN ROLE bullpen_reader' WHERE to_regrole('reader') IS NULL \gexec
ALTER ROLE reader PASSWORD :'password';
