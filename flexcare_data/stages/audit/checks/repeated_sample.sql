-- Is a sample in its cohort more than once?
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id FROM samples;

SELECT task, sample_id, count(*) AS times FROM checked GROUP BY task, sample_id HAVING count(*) > 1;
