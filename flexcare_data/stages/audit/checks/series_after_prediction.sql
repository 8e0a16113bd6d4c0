-- Does the observed period end after the question is asked? Where the whole stay is the input, the stay may end a little
-- after its recorded discharge from the unit (rounding of its length), but the period never after the stay.
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, stay_id, period_length, prediction_time FROM samples WHERE stay_id IS NOT NULL;

SELECT checked.*, intime, los_hours
FROM checked LEFT JOIN stays USING (stay_id)
WHERE coalesce(
    intime + to_microseconds(round(period_length * 3.6e9)::BIGINT) > prediction_time + INTERVAL 10 MILLISECOND, true)
  AND coalesce(period_length > los_hours + 1e-6, true);
