-- Does a series show a value that could not be read yet when the question was asked? A laboratory value is charted when
-- the specimen is drawn (charttime) and readable when it is stored (storetime).
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, stay_id, period_length, n_hours, prediction_time FROM samples WHERE stay_id IS NOT NULL;

WITH too_early AS (
    SELECT task, sample_id, stay_id, variable, hour, charted_hours, entry_hours, stored_hours, period_length
    FROM checked JOIN series_values USING (stay_id) JOIN stays USING (stay_id)
    WHERE hour < n_hours AND entry_hours <= period_length + 1e-6
      AND stored_hours > period_length + 1e-6
      AND intime + to_microseconds(round(stored_hours * 3.6e9)::BIGINT) > prediction_time
), shown_without_value AS (
    -- What an hour of the stored series shows although no value entered in it.
    SELECT stay_id, hour, variable
    FROM shown_hours LEFT JOIN entered_hours USING (stay_id, hour)
    JOIN variables ON (shown_hours.variables & ~coalesce(entered_hours.variables, 0)) & (1 << bit) <> 0
)
SELECT task, sample_id, variable, hour, charted_hours, stored_hours FROM too_early
WHERE NOT EXISTS (  -- a later value of the same hour takes its place
    SELECT 1 FROM series_values AS later
    WHERE later.stay_id = too_early.stay_id AND later.variable = too_early.variable AND later.hour = too_early.hour
      AND later.entry_hours > too_early.entry_hours AND later.entry_hours <= too_early.period_length + 1e-6
)
UNION ALL
SELECT task, sample_id, variable, hour, NULL, NULL
FROM checked JOIN shown_without_value USING (stay_id)
WHERE hour < n_hours;
