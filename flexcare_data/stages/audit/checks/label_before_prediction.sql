-- Was the answer known before the question is asked: has the patient died, left or returned already?
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, label_time, prediction_time FROM samples WHERE label_time IS NOT NULL;

SELECT * FROM checked WHERE label_time < prediction_time;
