-- Is a patient in more than one of train, val and test, in the list of splits or in any cohort?
CREATE OR REPLACE TEMP VIEW checked AS
SELECT subject_id, split::VARCHAR AS split FROM splits
UNION
SELECT subject_id, split FROM samples;

SELECT subject_id, string_agg(split, ', ' ORDER BY split) AS splits
FROM checked GROUP BY subject_id HAVING count(*) > 1;
