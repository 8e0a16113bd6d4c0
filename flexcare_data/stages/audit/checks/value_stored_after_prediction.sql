-- Does a series show a value that could not be read yet when the question was asked? A laboratory value is charted when
-- the specimen is drawn (charttime) and readable when it is stored (storetime).
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, stay_id, period_length, n_hours FROM samples WHERE stay_id IS NOT NULL;

WITH waiting AS (
    -- The values that entered the series before they were stored, once for each hour during which they waited. With
    -- these hours a value meets only the samples that are asked then.
    SELECT values.*, unnest(range(
        floor(entry_hours)::BIGINT, floor(least(stored_hours, los_hours + 1))::BIGINT + 1)) AS waiting_hour
    FROM series_values AS values JOIN stays USING (stay_id)
    WHERE stored_hours > entry_hours
), too_early AS (
    SELECT task, sample_id, stay_id, variable, hour, charted_hours, entry_hours, stored_hours, period_length
    FROM checked JOIN waiting USING (stay_id)
    WHERE waiting_hour = floor(period_length)
      AND hour < n_hours AND entry_hours <= period_length + 1e-6
      AND stored_hours > period_length + 1e-6
)
SELECT * FROM too_early
WHERE NOT EXISTS (  -- a later value of the same hour takes its place
    SELECT 1 FROM series_values AS later
    WHERE later.stay_id = too_early.stay_id AND later.variable = too_early.variable AND later.hour = too_early.hour
      AND later.entry_hours > too_early.entry_hours AND later.entry_hours <= too_early.period_length + 1e-6
);
