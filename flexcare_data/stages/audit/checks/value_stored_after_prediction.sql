-- Is there a value in the observed period that could not be read yet when the question was asked? A laboratory value is
-- charted when the specimen is drawn (charttime) and readable when it is stored (storetime).
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, stay_id, period_length, n_hours FROM samples WHERE stay_id IS NOT NULL;

WITH shown_without_value AS (
    -- What an hour of the stored series shows although no value entered in it.
    SELECT stay_id, hour, variable
    FROM shown_hours LEFT JOIN entered_hours USING (stay_id, hour)
    JOIN variable_bits ON (shown_hours.variables & ~coalesce(entered_hours.variables, 0)) & (1 << bit) <> 0
)
SELECT task, sample_id, variable, hour
FROM checked JOIN series_values USING (stay_id)
WHERE hour < n_hours AND entry_hours <= period_length + 1e-6
  AND stored_hours > period_length + 1e-6
UNION ALL
SELECT task, sample_id, variable, hour
FROM checked JOIN shown_without_value USING (stay_id)
WHERE hour < n_hours;
