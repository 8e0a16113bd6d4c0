-- Does a sample read more hours of the series than its observed period has? Hours begin at ICU admission; the last one
-- may be part of an hour.
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, period_length, n_hours FROM samples WHERE stay_id IS NOT NULL;

SELECT * FROM checked
WHERE n_hours IS NULL OR period_length IS NULL OR n_hours > greatest(trunc(period_length + 1 - 1e-6), 0);
