-- Is a sample asked at no known time? Then nothing about it could be checked.
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, prediction_time FROM samples;

SELECT * FROM checked WHERE prediction_time IS NULL;
