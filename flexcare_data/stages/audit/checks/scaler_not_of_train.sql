-- Do the mean and standard deviation that the series are scaled with differ from those of all hours of the train stays?
CREATE OR REPLACE TEMP VIEW checked AS
SELECT variable, mean, std FROM scaler;

WITH train_hours AS (
    SELECT grid_values.* EXCLUDE (stay_id)
    FROM grid_values JOIN stays USING (stay_id) JOIN splits USING (subject_id)
    WHERE split = 'train'
), long AS (
    UNPIVOT train_hours ON COLUMNS(*) INTO NAME variable VALUE value
), fitted AS (
    SELECT variable, avg(value) AS mean_of_train, stddev_pop(value) AS std_of_train FROM long GROUP BY variable
)
SELECT checked.*, mean_of_train, std_of_train
FROM checked LEFT JOIN fitted USING (variable)
WHERE EXISTS (SELECT 1 FROM train_hours)  -- without any hour there is nothing to fit
  AND (coalesce(abs(mean - mean_of_train) > 1e-6 * (abs(mean) + std), true)
   -- A column without any spread is not scaled: its standard deviation is written as 1.
   OR coalesce(abs(std - std_of_train) > 1e-6 * std AND NOT (std = 1 AND std_of_train < 1e-6), true));
